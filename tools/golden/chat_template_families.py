"""More chat templates written for the tests, for the families that chat_template_sources.py lacks.

As there: the formats are the families', the programs ours. Imported by make_chat_templates.py.
"""

TEMPLATES = {}

TEMPLATES["mixtral"] = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system_message = messages[0]['content'] -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('After an optional system message, user and assistant take turns') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {%- if loop.first and system_message is defined -%}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' -}}
        {%- else -%}
            {{- ' [INST] ' + message['content'] + ' [/INST]' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ' + message['content'] + eos_token -}}
    {%- else -%}
        {{- raise_exception('Only user and assistant roles, and a first system message') -}}
    {%- endif -%}
{%- endfor -%}
"""

# Tools by a macro that writes JSON by hand, the time, a namespace that remembers.
TEMPLATES["mistral small"] = """\
{%- set default_system = 'You are a model.\\nToday is ' + strftime_now('%Y-%m-%d') + ', ' ~ strftime_now('%A') ~ '.' -%}
{%- macro arguments(call) -%}
    {%- if call.arguments is mapping -%}{{ call.arguments | tojson }}{%- else -%}{{ call.arguments }}{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
    {%- if messages[0].content is string -%}
        {%- set system = messages[0].content -%}
    {%- else -%}
        {%- set system = messages[0].content | map(attribute='text') | join('\\n') -%}
    {%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system, rest = default_system, messages -%}
{%- endif -%}
{{- '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' -}}
{%- if tools -%}{{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
{%- set ns = namespace(answered=0) -%}
{%- for m in rest -%}
    {%- if m.role == 'user' -%}
        {{- '[INST]' -}}
        {%- if m.content is string -%}{{- m.content -}}
        {%- else -%}
            {%- for part in m.content -%}
                {%- if part.type == 'text' -%}{{- part.text -}}
                {%- elif part.type in ['image', 'image_url'] -%}{{- '[IMG]' -}}
                {%- else -%}{{- raise_exception('Only text and images are supported') -}}{%- endif -%}
            {%- endfor -%}
        {%- endif -%}
        {{- '[/INST]' -}}
    {%- elif m.role == 'assistant' and m.tool_calls -%}
        {%- for call in m.tool_calls -%}
            {{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' + arguments(call.function) -}}
        {%- endfor -%}
        {{- eos_token -}}
    {%- elif m.role == 'assistant' -%}
        {%- set ns.answered = ns.answered + 1 -%}
        {{- m.content + eos_token -}}
    {%- elif m.role == 'tool' -%}
        {{- '[TOOL_RESULTS]%s[TOOL_CONTENT]%s[/TOOL_RESULTS]' | format(m.tool_call_id, m.content) -}}
    {%- else -%}
        {{- raise_exception('Unexpected role ' ~ m.role) -}}
    {%- endif -%}
{%- endfor -%}
{#- Nothing is asked for after the last answer. -#}
"""

TEMPLATES["falcon"] = """\
{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{% if message['role'] == 'system' %}\
{{ message['content'] }}{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'].replace('\\r\\n', '\\n').replace('\\n\\n', '\\n') }}\
{% elif message['role'] == 'assistant' %}{{ 'Falcon: ' + message['content'] }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '\\n' + 'Falcon:' }}{% endif %}"""

TEMPLATES["falcon3"] = """\
{%- if tools %}
{{- '<|system|>\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content ~ '\\n\\n' }}{% endif %}
{{- 'Tools, one a line:\\n<tools>' }}
{%- for tool in tools %}{{- (tool.function if tool.function is defined else tool) | tojson }}{{- '' if loop.last else '\\n' }}{% endfor %}
{{- '</tools>\\n' }}
{%- endif %}
{%- for message in messages if not (tools and loop.index0 == 0 and message.role == 'system') %}
{%- if message.role == 'assistant' and message.tool_calls %}
{{- '<|assistant|>\\n<tool_call>[' }}
{%- for call in message.tool_calls %}{{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}{{- '' if loop.last else ',' }}{% endfor %}
{{- ']</tool_call>' + eos_token + '\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|assistant|>\\n' + message.content }}{{- '\\n' if loop.last and not add_generation_prompt else eos_token + '\\n' }}
{%- else %}
{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>\\n' + message.content | string + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}
"""

TEMPLATES["mpt"] = """\
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}\
{% elif not 'system' in messages[0]['role'] %}{% set loop_messages = messages %}{% set system_message = 'A conversation between a user and \
an assistant.\\nThe assistant is "helpful".' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
{% if loop.index0 == 0 %}
{% if system_message != false %}{{ '<|im_start|>system\\n' + system_message.strip() + '<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% else %}
{{ '\\n' + '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% endif %}
{% if (add_generation_prompt == true and loop.last) %}{{ '\\n' + '<|im_start|>' + 'assistant' + '\\n' }}{% elif (message['role'] == 'assistant' and loop.last) %}{{ '\\n' }}{% endif %}
{% endfor %}
"""

TEMPLATES["olmo2"] = """\
{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'assistant' %}
{% if not loop.last %}
{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}
{% else %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{% endif %}
{% endfor %}"""

TEMPLATES["stablelm"] = """\
{%- set texts = namespace(all=[]) -%}
{%- for message in messages -%}
    {%- set body = message.content if message.content is string else (message.content or []) | selectattr('type', 'eq', 'text') | map(attribute='text') | join -%}
    {%- set texts.all = texts.all + ['<|' ~ message.role | upper | lower ~ '|>\\n' ~ body | trim ~ eos_token] -%}
{%- endfor -%}
{{- texts.all | join('\\n') -}}
{{- '\\n<|assistant|>\\n' if add_generation_prompt -}}
"""

TEMPLATES["starcoder2"] = """\
{{ bos_token }}{{ 'You read instructions and answer with code.\\n\\n' }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{ raise_exception('No system prompt, please.') }}
    {%- else %}
        {%- if message['role'] == 'user' %}
            {{- '### Instruction\\n' + message['content'] + '\\n\\n' }}
        {%- else %}
            {{- '### Response\\n' + message['content'] + eos_token + '\\n\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{- '### Response\\n' if add_generation_prompt }}
"""

TEMPLATES["pythia"] = """\
{%- set names = {'system': '<|system|>', 'user': '<|prompter|>', 'assistant': '<|assistant|>'} %}
{%- for message in messages | rejectattr('role', 'eq', 'tool') %}
    {{- names.get(message.role, '<|' ~ message.role ~ '|>') }}{{ message.content | default('', true) }}{{ '<|endoftext|>' }}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role != 'assistant' %}{{ names['assistant'] }}{% endif %}
"""

# The last user turn is searched from the end, as Qwen 3 does; arguments may be text or a mapping.
TEMPLATES["qwen3 moe"] = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>\\n\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning is string %}
            {%- set reasoning = message.reasoning %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- set call = call.function if call.function else call %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

TEMPLATES["rwkv"] = """\
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- 'User: ' + message.content | trim | replace('\\n\\n', '\\n') + '\\n\\n' -}}
    {%- elif message.role == 'system' -%}{{- 'System: ' + message.content | trim | replace('\\n\\n', '\\n') + '\\n\\n' -}}
    {%- elif message.role == 'assistant' -%}{{- 'Assistant: ' + (message.content or '') | trim + '\\n\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
