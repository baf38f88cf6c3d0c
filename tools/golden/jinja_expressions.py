"""Expressions that together touch every corner of the Jinja subset of src/text/jinja_*.

Imported by make_chat_templates.py, which renders each as {{ expression }}.
"""

EXPRESSIONS = r"""
1
-1
+1
1_000
0x1F
0b101
0o17
1.5
1e3
1.5e-7
1e16
1e22
123456789012345678.0
0.1 + 0.2
1 / 2
4 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7.5 // 2
-7.5 // 2
-7.5 % 2
7.5 % -2
2 ** 10
2 ** -1
2 ** 3 ** 2
2.0 ** 0.5
-2 ** 2
true + 1
true * 3
1 == 1.0
true == 1
big == 9007199254740992.0
big
n / 2
n // f
f * n
1 < 2 < 3
1 < 2 > 5
3 > 2 >= 2
'a' < 'b'
'Z' < 'a'
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
nil == none
none is none
not true
not not 0
1 and 2
0 and 2
0 or 'x'
'' or [] or 'last'
1 or missing.attr
none and missing.attr
'yes' if n > 5 else 'no'
'yes' if n > 50
('a' if false else 'b') ~ 'c'
1 if 0 else 2 if 0 else 3
'a' ~ 1 ~ none ~ true ~ 2.0
'a' 'b' "c"
'ab' * 3
3 * 'ab'
'ab' * 0
'ab' * -1
[1, 2] * 2
[1] + [2, 3]
(1,) + (2,)
(1)
()
(1,)
(1, 2)
[]
[1, 'a', none, true, 2.0, [], {}]
{}
{'a': 1, 'b': [1, 2], 3: none}
{1: 'a', true: 'b', 1.0: 'c'}
{'k': 'v'}['k']
{'k': 'v'}.k
[1, 2, 3][-1]
[1, 2, 3][5]
[1, 2, 3].1
xs.0
'abc'[1]
'abc'[-1]
'abc'[7]
uni[0:5]
uni[-5:]
uni[::-1]
uni | length
xs[1:]
xs[:-1]
xs[::2]
xs[::-1]
xs[5:1]
xs[-2:]
xs[:]
xs[2:0:-1]
(1, 2, 3)[1:]
range(5)
range(5) | list
range(2, 8, 3) | list
range(5, 0, -2) | list
range(10)[2:5]
range(10)[::3] | list
range(3) == range(0, 3)
'ell' in s
'z' in s
'z' not in s
1 in xs
9 in xs
'a' in d
'zz' not in d
1 in (1, 2)
1.0 in xs
2 in range(3)
s
s.upper()
s.lower()
s.title()
'hello wORLD'.capitalize()
s.swapcase()
'they\'re bill\'s'.title()
uni.upper()
'straße ﬁn'.upper()
'straße'.title()
'ΑΣ ΣΑΣ.'.lower()
'İ'.lower()
'Straße'.casefold()
padded.strip()
padded.lstrip()
padded.rstrip()
'xxhixx'.strip('x')
'xyhiyx'.lstrip('xy')
s.split(',')
s.split(', ', 1)
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
padded.split()
' a b  c '.split(none, 1)
' a b  c '.rsplit(none, 1)
'abc'.split('')
'a\nb\r\nc\n'.splitlines()
'a\nb\r\nc\n'.splitlines(true)
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('-')
'abc'.rpartition('-')
s.startswith('Hello')
s.startswith(('x', 'He'))
s.startswith('World', 7)
s.endswith('World')
s.endswith(('d', 'x'))
s.find('o')
s.find('o', 5)
s.find('zz')
s.rfind('o')
s.index('W')
s.index('zz')
s.count('l')
s.count('')
uni.find('😀')
s.replace('l', 'L')
s.replace('l', 'L', 1)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
', '.join(['a', 'b'])
', '.join('abc')
', '.join([1])
'abc'.center(9, '*')
'abc'.center(8)
'abc'.ljust(6) ~ '|'
'abc'.rjust(6, '.')
'42'.zfill(5)
'-42'.zfill(5)
'a\tb'.expandtabs(4)
'TestHook'.removeprefix('Test')
'MiscTests'.removesuffix('Tests')
'abc'.isalpha()
'ab1'.isalnum()
'12'.isdigit()
'1.2'.isdigit()
' '.isspace()
''.isspace()
'Abc'.isupper()
'ABC'.isupper()
'abc'.islower()
'Ab Cd'.istitle()
'x_1'.isidentifier()
'{} {}'.format(1, 'a')
'{1} {0}'.format(1, 'a')
'{a} {b!r}'.format(a=1, b='x')
'{:>6}|{:<6}|{:^6}'.format('a', 'b', 'c')
'{:05d} {:+d} {:x} {:#x} {:b}'.format(42, 42, 255, 255, 5)
'{:,} {:_}'.format(1234567, 1234567)
'{:.2f} {:.3e} {:g} {:.1%}'.format(3.14159, 31415.9, 0.0001, 0.256)
'{:*^9}'.format('mid')
'{0.name} {0[age]}'.format(users[0])
'{{}} {}'.format(1)
'{:.3}'.format('abcdef')
'{:8.3f}|'.format(2.0)
'%s %d %5.2f %x %r %%' % ('a', 42, 3.14159, 255, 'q')
'%s' % 'one'
'%s' % [1, 2]
'%-5s|%5s|%05d' % ('a', 'b', 42)
'%(a)s-%(b)d' % {'a': 1, 'b': 2}
'%d' % 3.9
'%s'
'%d' % 'x'
'%s %s' % 'x'
'abc' % 5
d.b
d['b']
d.items is callable
d['items']
d.missing
d['missing']
d.get('b')
d.get('zz')
d.get('zz', 5)
d.keys()
d.values()
{'a': 1}.items()
d.keys() | list
'a' in d.keys()
d | length
d.items() | list
{'a': 1}.copy()
xs.index(1)
xs.count(1)
xs.append(4)
d.update({})
d.pop('a')
''.__class__
''.__class__.__mro__
xs.__len__()
d.__init__
users[0].address
users[2].address.zip
users[0].address.zip
missing
missing.attr
missing[0]
missing()
missing + 1
missing == missing
missing ~ 'x'
missing | length
missing | upper
missing | default('dflt')
missing | list
missing | join
missing | int
missing | tojson
empty | default('dflt')
empty | default('dflt', true)
nil | default('dflt')
nil | d('dflt', boolean=true)
-missing
[missing]
missing is defined
n is defined
missing is undefined
nil is none
n is number
f is float
n is float
n is integer
t is integer
t is number
t is boolean
t is true
no is false
s is string
n is string
d is mapping
xs is mapping
xs is sequence
d is sequence
s is sequence
n is sequence
xs is iterable
n is iterable
range is callable
s is callable
7 is odd
7 is even
9 is divisibleby 3
9 is divisibleby(2)
n is eq 7
n is equalto(7)
n is ne 7
n is gt 5
n is greaterthan 7
n is lt 8
n is le 7
n is ge 8
'a' is in 'abc'
3 is in xs
5 is not in xs
'abc' is lower
'ABC' is upper
none is sameas none
true is sameas true
'upper' is filter
'nosuch' is filter
'odd' is test
'nosuch' is test
html | escape is escaped
n is not none
n is defined and n is number
not n is none
s | upper
s | lower
'hELLO wORLD foo-bar (baz)' | title
'hELLO' | capitalize
padded | trim
'xxhixx' | trim('x')
s | replace('o', '0')
s | replace('o', '0', 1)
5 | replace(5, 6)
s | length
xs | length
5 | length
s | first
s | last
xs | first
xs | last
[] | first
[] | last
d | first
d | last
xs | sort
xs | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
users | sort(attribute='age') | map(attribute='name') | list
users | sort(attribute='age,name', reverse=true) | map(attribute='name') | join(' ')
[3, 'a'] | sort
words | unique | list
words | unique(case_sensitive=true) | list
users | unique(attribute='age') | map(attribute='name') | list
xs | reverse | list
s | reverse
xs | join
xs | join(', ')
users | join(', ', attribute='name')
users | map(attribute='name') | list
users | map(attribute='address.zip', default='-') | list
users | map(attribute='address') | list
words | map('upper') | join(' ')
words | map('replace', 'p', 'P') | list
words | map('length') | list
xs | map('nosuch') | list
xs | select('odd') | list
xs | reject('odd') | list
xs | select('gt', 1) | list
[0, 1, '', 'a', none] | select | list
[0, 1, '', 'a', none] | reject | list
users | selectattr('active') | map(attribute='name') | list
users | rejectattr('active') | map(attribute='name') | list
users | selectattr('age', 'equalto', 30) | map(attribute='name') | list
users | selectattr('city', 'in', ['Oslo', 'Rome']) | list | length
users | selectattr('active', 'defined') | list | length
messages | selectattr('role', '==', 'user') | first
messages | selectattr('role', 'eq', 'tool') | list
(messages | rejectattr('role', 'eq', 'system') | list)[0].content
'yes' if xs | select('gt', 100) else 'no'
xs | select('odd') | length
xs | sum
users | sum(attribute='age')
[[1], [2]] | sum(start=[])
xs | min
xs | max
words | min
words | max(case_sensitive=true)
users | max(attribute='age')
[] | max
5.5 | round
2.5 | round
3.5 | round
2.675 | round(2)
42 | round
1234.5 | round(-2)
2.1 | round(0, 'ceil')
2.9 | round(0, 'floor')
2.345 | round(2, 'ceil')
-5 | abs
-5.5 | abs
'42' | int
'42.9' | int
'abc' | int
'abc' | int(7)
'0x1f' | int(base=16)
'ff' | int(0, 16)
' 12_3 ' | int
3.99 | int
-3.99 | int
none | int
true | int
'3.5' | float
'x' | float
'1e3' | float
'inf' | float
5 | float
'nan' | float
5 | string ~ 'x'
none | string
[1, 'a'] | string
s | list
d | list
d | items | list
d | dictsort
{'b': 2, 'A': 3, 'c': 1} | dictsort
{'b': 2, 'A': 3, 'c': 1} | dictsort(true)
{'b': 2, 'A': 3, 'c': 1} | dictsort(by='value', reverse=true)
range(7) | batch(3) | list
range(7) | batch(3, 'x') | list
range(7) | slice(3) | list
range(7) | slice(3, 'x') | list
users | groupby('age')
(users | groupby('city'))[1].grouper
(users | groupby('city'))[1].list | map(attribute='name') | list
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(2, blank=true)
'a\nb' | indent('>> ', first=true)
'foo bar baz qux' | truncate(9)
'foo bar baz qux' | truncate(9, true)
'foo bar baz qux' | truncate(11)
'foo bar baz qux' | truncate(11, false, '...', 0)
'foo bar baz qux' | truncate(9, end='…')
'some words, here_too ünï' | wordcount
'abc' | center(9)
'%s, %s!' | format('Hi', 'Bob')
'%(a)s' | format(a=5)
html | escape
html | e
html | safe
html | safe | escape
html | forceescape
(html | escape) ~ '<'
(html | escape) + '<'
'<' + (html | safe)
('<' | e) * 2
('<a>' | e).upper()
('%s' | safe) % '<'
('<x>' | safe).replace('x', '<')
[html | safe]
d | tojson
d | tojson(indent=2)
{'a': [], 'b': {}, 'c': [1, {'d': none}]} | tojson(indent=4)
uni | tojson
uni | tojson(ensure_ascii=true)
html | tojson
"q\"b\\s/n\nt\tc\x01\x7f" | tojson
"\x1f\x10\x00\x20" | tojson
[1, 1.0, 1.5e300, true, none, 'x', (1, 2)] | tojson
{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true)
{'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'))
{1: 2, none: 3, true: 4, 2.5: 6} | tojson
{(1, 2): 3} | tojson
range(3) | tojson
d.keys() | tojson
[] | tojson
[] | tojson(indent=2)
'x' | attr('upper') is callable
d | attr('b')
dict(a=1, b=2)
dict({'a': 1}, b=2)
dict([('x', 1), ('y', 2)])
namespace(a=1).a
namespace(a=1).b
namespace({'x': 5}).x
namespace(_a=1)
cycler('a', 'b').next()
raise_exception('stop here')
s | nosuch
s is nosuch
1 is divisibleby 0
1 / 0
1 // 0
1 % 0
1.0 / 0
'a' + 1
1 + 'a'
[1] + (2,)
'a' - 'b'
none + 1
1 < 'a'
none < 1
{} < {}
'a' in 5
1 in 'abc'
5()
s.nosuch()
s()
n.x
nil.x
xs.x
xs['x']
nil[0]
5[0]
nil[1:]
xs['a':]
xs[::0]
d[[1]]
{[1]: 2}
range(1, 2, 0)
range(100001) | length
users[0]['name'][0]
nested[1][1][0]
nested
"\x41\u00e9\U0001F600\101\n\t\\\'\"\q"
'it\'s'
['it\'s', "say \"hi\"", 'both \' and "', 'new\nline', 'tab\t', 'null\x00', 'é', '\u200b', '\U0001F600']
[1.0, 1e16, 1e-5, 0.0001, -0.0, 1e400]
(1, 2, 3) | length
((1, 2), (3, 4)) | list
(xs | sort)[0]
xs|sort|first
-1 | abs
- 1 | abs
(-3) ** 2
1 - -1
not n == 7
n == 7 and not s == 'x'
n in [7] and s in ['x']
'a' if n == 7 and s else 'b'
{'a': {'b': [10, 20]}}.a.b[1]
"%.2f" | format(3.14159)
s[0:1] | upper ~ s[1:]
messages[0]['role'] == 'system'
messages[1:] | length
messages[-1].content
messages | map(attribute='role') | join('/')
loop
loop is defined
'Straße' | length
'é' == 'é'
'\u00e9' == 'é'
'aXbX'.split('X')
'ABC'.lower().upper().title()
'x'.join(['1'])
s.split(', ')[1][0]
'a b'.split(' ') | map('upper') | list
[[1, 2], [3]] | map('sum') | list
[[1, 2], [3]] | map('join', '-') | list
d.items() | length
d.values() | list
{'x': 1}.items() | first
{'x': none}.x is none
{'x': 1} | tojson ~ '!'
1.0 | tojson
100000000000000000000.0
123456789.123456789
1e15 + 0.5
5 // 0.3
-0.0
10 ** 15
7 | float / 2
true and 'x' or 'y'
false == 0
'1' == 1
'' is defined
'' == none
not ''
(none, true, false)
None
True and False
"a" in ["a"] and "b" not in ["a"]
""" .strip().split("\n")
