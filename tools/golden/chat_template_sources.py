"""Chat templates written for the tests, one for each family's prompt format.

The formats (which tokens stand where) are the families'; the programs are ours, written to use the
constructs that such templates use. Imported by make_chat_templates.py.
"""

TEMPLATES = {}

TEMPLATES["chatml"] = """\
{% for m in messages %}
{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

TEMPLATES["smollm2"] = """\
{% if messages[0].role != 'system' -%}
<|im_start|>system
You are a small helpful model<|im_end|>
{% endif %}
{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

TEMPLATES["llama2"] = """\
{% set lead = '' %}
{% if messages[0]['role'] == 'system' %}
    {% set lead = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' %}
    {% set turns = messages[1:] %}
{% else %}
    {% set turns = messages %}
{% endif %}
{% for turn in turns %}
    {% if turn['role'] not in ['user', 'assistant'] or (turn['role'] == 'user') == (loop.index0 % 2 == 1) %}
        {{ raise_exception('Roles must take turns: user, assistant, user, ...') }}
    {% endif %}
    {% set text = lead + turn['content'] if loop.first else turn['content'] %}
    {% if turn['role'] == 'user' %}
        {{- bos_token + '[INST] ' + text | trim + ' [/INST]' -}}
    {% else %}
        {{- ' ' ~ text.strip() ~ ' ' + eos_token -}}
    {% endif %}
{% endfor %}
"""

TEMPLATES["llama3"] = """\
{% macro head(role) %}<|start_header_id|>{{ role }}<|end_header_id|>{{ '\\n\\n' }}{% endmacro %}
{{- bos_token }}
{%- for m in messages -%}
    {{ head(m.role) ~ m.content | trim }}<|eot_id|>
{%- endfor -%}
{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}
"""

TEMPLATES["llama3.1"] = """\
{{- bos_token }}
{%- set today = date_string | default(strftime_now('%d %b %Y'), true) %}
{%- set tools_in_user = tools_in_user_message | default(true) %}
{%- if messages[0].role == 'system' %}
    {%- set system, messages = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools %}{{ 'Environment: ipython\\n' }}{% endif %}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ today ~ '\\n\\n' }}
{%- if tools and not tools_in_user %}
    {{- 'You may call these functions, with one line of JSON:\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) ~ '\\n\\n' }}{% endfor %}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- if tools and tools_in_user %}
    {%- if messages | length == 0 %}{{ raise_exception('Nowhere to put the tools') }}{% endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nFunctions:\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}
    {{- messages[0].content | trim ~ '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('One tool call in a message, please') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{ '}<|eot_id|>' }}
    {%- elif m.role in ('tool', 'ipython') %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {{- (m.content if m.content is string else m.content | tojson) ~ '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""

TEMPLATES["mistral"] = """\
{%- set system = messages[0].content if messages[0].role == 'system' %}
{%- set turns = messages[1:] if system is defined else messages %}
{%- set last_user = (turns | selectattr('role', 'eq', 'user') | list | length) - 1 %}
{%- set ns = namespace(users=-1) %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- set ns.users = ns.users + 1 %}
        {%- if tools is not none and ns.users == last_user %}
            {%- set ns.specs = [] %}
            {%- for f in tools | map(attribute='function') %}
                {%- set kept = dict(f.items() | rejectattr(0, 'eq', 'return')) %}
                {%- set ns.specs = ns.specs + [dict(type='function', function=kept)] %}
            {%- endfor %}
            {{- '[AVAILABLE_TOOLS] ' ~ ns.specs | tojson ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' ~ (system ~ '\\n\\n' if loop.last and system is defined else '') ~ m.content ~ '[/INST]' }}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- set id = call.id | default('') %}
            {%- if id | count != 9 %}{{ raise_exception('A tool call needs an id of 9 characters, not ' ~ id) }}{% endif %}
            {{- dict(call.function, id=id) | tojson ~ (']' ~ eos_token if loop.last else ', ') }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' ~ m.content | string | tojson ~ ', "call_id": "' ~ m.tool_call_id ~ '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Unknown role: ' ~ m.role) }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES["qwen2.5"] = """\
{%- set has_system = messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] if has_system else 'You are a helpful assistant.' -%}
<|im_start|>system
{{ system }}
{%- if tools %}


# Tools

The functions, as JSON in <tools></tools>:
<tools>
    {%- for tool in tools %}
        {{- '\\n' ~ tool | tojson }}
    {%- endfor %}

</tools>

Answer with JSON in <tool_call></tool_call>.
{%- endif %}
<|im_end|>
{% for m in messages[1 if has_system else 0:] %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- else %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}{{ '\\n' + m.content }}{% endif %}
        {%- for call in m.tool_calls or [] %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' ~ call.arguments | tojson ~ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

TEMPLATES["qwen3"] = """\
{%- set ns = namespace(searching=true, last_query=messages | length - 1) %}
{%- for m in messages | reverse if ns.searching and m.role == 'user' %}
    {%- if not m.content[:15] == '<tool_response>' or m.content[-16:] != '</tool_response>' %}
        {%- set ns.searching, ns.last_query = false, messages.index(m) %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set before, mark, after = content.partition('</think>') %}
        {%- set thoughts = m.reasoning_content | default('', true) %}
        {%- if mark and not thoughts %}
            {%- set thoughts = before.partition('<think>') | last | trim('\\n') %}
        {%- endif %}
        {%- set content = after.lstrip('\\n') if mark else content %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role in ['user', 'system'] %}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is sameas false }}
{%- endif %}
"""

TEMPLATES["gemma2"] = """\
{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('Gemma has no system turn') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 is even) %}{{ raise_exception('Users and model take turns') }}{% endif %}
    {%- set role = {'assistant': 'model'}.get(m.role, m.role) -%}
<start_of_turn>{{ role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}
{%- if add_generation_prompt %}<start_of_turn>model
{% endif %}
"""

TEMPLATES["gemma3"] = """\
{{ bos_token }}
{%- set first = '' -%}
{%- set turns = messages -%}
{%- if messages[0].role == 'system' -%}
    {%- if messages[0].content is string -%}
        {%- set first = messages[0].content + '\\n\\n' -%}
    {%- else -%}
        {%- set first = messages[0].content[0].text + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for m in turns -%}
    {{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' ~ (first if loop.first) }}
    {%- if m.content is string -%}
        {{ m.content | trim }}
    {%- elif m.content is iterable -%}
        {%- for part in m.content -%}
            {{ '<start_of_image>' if part.type == 'image' else part.text | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('Unknown kind of content') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

TEMPLATES["phi3"] = """\
{% for m in messages if m.content %}
{% if m.role in ['system', 'user'] %}
{{ '<|' ~ m.role ~ '|>' }}
{{ m.content }}<|end|>
{% elif m.role == 'assistant' %}
{{ '<|assistant|>\\n' + m.content + '<|end|>' }}
{% endif %}
{% endfor %}
{{ '<|assistant|>\\n' if add_generation_prompt else eos_token }}
"""

TEMPLATES["deepseek"] = """\
{%- set ns = namespace(in_tools=false, system='', output_open=false) -%}
{%- for m in messages if m.role == 'system' -%}
    {%- set ns.system = ns.system ~ ('\\n\\n' if ns.system else '') ~ m.content -%}
{%- endfor -%}
{{ bos_token ~ ns.system }}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}
        {%- set ns.in_tools = false -%}
        {{ '<｜User｜>' + m.content }}
    {%- elif m.role == 'assistant' and m.tool_calls -%}
        {{ '<｜Assistant｜>' ~ (m.content or '') ~ '<｜tool▁calls▁begin｜>' }}
        {%- for call in m.tool_calls -%}
            {{ '\\n' if not loop.first }}<｜tool▁call▁begin｜>{{ call.type ~ '<｜tool▁sep｜>' ~ call.function.name }}
```json
{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
```<｜tool▁call▁end｜>
        {%- endfor -%}
        {{ '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- elif m.role == 'assistant' -%}
        {%- set content = m.content.split('</think>') | last if '</think>' in m.content else m.content -%}
        {{ ('<｜tool▁outputs▁end｜>' if ns.in_tools else '<｜Assistant｜>') ~ content ~ '<｜end▁of▁sentence｜>' }}
        {%- set ns.in_tools = false -%}
    {%- elif m.role == 'tool' -%}
        {{ '<｜tool▁outputs▁begin｜>' if not ns.in_tools else '\\n' }}{{ '<｜tool▁output▁begin｜' ~ '>' ~ m.content ~ '<｜tool▁output▁end｜>' }}
        {%- set ns.in_tools = true -%}
    {%- endif -%}
{%- endfor -%}
{%- if ns.in_tools %}{{ '<｜tool▁outputs▁end｜>' }}{% elif add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif -%}
"""

TEMPLATES["granite"] = """\
{%- macro turn(role, text) -%}
<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}<|end_of_text|>
{% endmacro %}
{%- set today = strftime_now('%B %d, %Y') %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system %}
Knowledge Cutoff Date: April 2024.
Today's Date: {{ today }}.
You are Granite{% if tools and documents %}, with tools and documents
    {%- elif tools %}, with tools
    {%- elif documents %}, with documents
    {%- endif %}.
    {%- endset %}
    {%- set rest = messages %}
{%- endif %}
{{- turn('system', system) }}
{%- if tools %}{{ turn('tools', tools | tojson(indent=4)) }}{% endif %}
{%- if documents %}
    {%- set text %}
        {%- for document in documents %}Document {{ loop.index0 }}
{{ document['text'] }}{{ '\\n\\n' if not loop.last }}{% endfor %}
    {%- endset %}
    {{- turn('documents', text) }}
{%- endif %}
{%- for m in rest %}
    {{- turn(m.role, m.content) }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{ ' ' + controls | tojson }}{% endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES["command-r"] = """\
{%- macro document_turn(documents) -%}
<results>
{% for doc in documents %}
Document: {{ loop.index0 }}
{% for key, value in doc.items() %}
{{ key }}: {{ value }}
{% endfor %}
{% if not loop.last %}

{% endif %}
{% endfor %}
</results>
{%- endmacro %}
{%- set names = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'} %}
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in names %}{{ raise_exception('Unknown role ' ~ message.role) }}{% endif %}
    {{- '<|START_OF_TURN_TOKEN|><|' ~ names[message['role']] ~ '_TOKEN|>' ~ message.content.strip() ~ '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if documents %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' ~ document_turn(documents) ~ '<|END_OF_TURN_TOKEN|>' }}{% endif %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}
"""

TEMPLATES["hermes"] = """\
{%- macro python_type(spec) %}
{%- set basic = {'string': 'str', 'number': 'float', 'integer': 'int', 'boolean': 'bool', 'null': 'None'} %}
{%- if spec.type is not defined %}{{ 'Any' }}
{%- elif spec.type is iterable and spec.type is not string %}
    {%- set ns = namespace(parts=[]) %}
    {%- for t in spec.type %}{% set ns.parts = ns.parts + [python_type({'type': t})] %}{% endfor %}
    {{- 'Union[' ~ ns.parts | join(',') ~ ']' }}
{%- elif spec.type in basic %}{{ basic[spec.type] }}
{%- elif spec.type == 'array' %}{{ 'list[' ~ python_type(spec['items']) ~ ']' }}
{%- elif spec.type == 'object' %}
    {%- if spec.additionalProperties is defined %}{{ 'dict[str, ' ~ python_type(spec.additionalProperties) ~ ']' }}
    {%- else %}{{ 'dict' }}{% endif %}
{%- else %}{{ 'Any' }}{% endif %}
{%- endmacro %}
{{- '<|im_start|>system\\n<tools>' }}
{%- for tool in (tools or []) %}
    {%- set f = tool.function if tool.function is defined else tool %}
    {{- '\\n' ~ f.name ~ '(' }}
    {%- for name, spec in f.parameters.properties.items() %}
        {{- name ~ ': ' ~ python_type(spec) }}
        {%- if name not in f.parameters.required | default([]) %}{{ ' = None' }}{% endif %}
        {{- ', ' if not loop.last }}
    {%- endfor %}
    {{- ') - ' ~ f.description }}
{%- endfor %}
{{- ' </tools><|im_end|>\\n' }}
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.tool_calls is defined %}
        {{- '<|im_start|>assistant' }}
        {%- for call in m.tool_calls %}
            {{- '\\n<tool_call>\\n' ~ {'name': call.function.name, 'arguments': call.function.arguments} | tojson ~ '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

TEMPLATES["typescript tools"] = """\
{%- macro ts_type(spec, required) -%}
    {%- if spec.type == 'array' -%}
        {{- ts_type(spec['items'], []) + '[]' if spec['items'] else 'any[]' }}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type[0] is defined -%}
        {{- spec.type | join(' | ') }}
    {%- elif spec.enum -%}
        {{- '"' + spec.enum | join('" | "') + '"' }}
    {%- elif spec.type in ('number', 'integer') -%}
        number
    {%- elif spec.type == 'object' and spec.properties -%}
        {{- '{\\n' }}
        {%- for name, prop in spec.properties.items() -%}
            {{- name ~ ('?' if name not in (spec.required or []) else '') ~ ': ' }}
            {{- ts_type(prop, spec.required or []) }}
            {{- ', ' if not loop.last }}
        {%- endfor -%}
        {{- '}' }}
    {%- else -%}
        {{- spec.type or 'any' }}
    {%- endif -%}
{%- endmacro -%}
{%- macro namespace_of(name, tools) -%}
    {{- '## ' + name + '\\n\\nnamespace ' + name + ' {\\n\\n' }}
    {%- for tool in tools %}
        {%- set f = tool.function %}
        {{- '// ' + f.description + '\\ntype ' + f.name + ' = ' }}
        {%- if f.parameters and f.parameters.properties %}
            {{- '(_: ' ~ ts_type(f.parameters, f.parameters.required) ~ ') => any;\\n\\n' }}
        {%- else %}{{ '() => any;\\n\\n' }}{% endif %}
    {%- endfor %}
    {{- '} // namespace ' + name }}
{%- endmacro -%}
<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}
Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>
{%- if tools %}<|start|>developer<|message|>{{ namespace_of('functions', tools) }}<|end|>{% endif %}
{%- for m in messages %}
    {%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif -%}
    <|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}<|end|>
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}
"""

TEMPLATES["zephyr"] = """\
{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

TEMPLATES["vicuna"] = """\
{%- if messages[0].role == 'system' -%}{{ messages[0].content ~ '\\n\\n' }}{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}
    {%- if m.role == 'tool' -%}{%- break -%}{%- endif -%}
    {{ m.role | replace('user', 'human') | upper }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '\\n' }}
{%- endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt }}
"""

TEMPLATES["training"] = """\
{% for m in messages %}
{{- '<|' ~ m.role ~ '|>\\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content ~ eos_token }}{% endgeneration %}
{%- else %}{{ m.content }}{% endif %}
{{- '\\n' }}
{%- endfor %}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city <now>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "e.g. \"Zürich\" 🌦"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": ["integer", "null"]},
                "points": {"type": "array", "items": {"type": "number"}},
                "extra": {"type": "object", "additionalProperties": {"type": "boolean"}},
            },
            "required": ["city"],
        },
    },
}
NOW = {"type": "function",
       "function": {"name": "now", "description": "The time",
                    "parameters": {"type": "object", "properties": {}}}}

CHATS = {
    "one": [{"role": "user", "content": "Hello there! "}],
    "system": [
        {"role": "system", "content": " You are <brief>. "},
        {"role": "user", "content": "What's 2 + 2?\n"},
        {"role": "assistant", "content": "\n4 "},
        {"role": "user", "content": "És \"ünïcode\" 😀?"},
    ],
    "tools": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Zürich?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "abcdefgh1", "type": "function", "function": {
                "name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "hot": False}}}]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "{\"t\": 21.5}"},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "rain"},
        {"role": "assistant", "content": "21.5 °C"},
        {"role": "user", "content": "Thanks"},
    ],
    "thinking": [
        {"role": "user", "content": "Think."},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nDone."},
        {"role": "user", "content": "More."},
        {"role": "assistant", "content": "Fine.", "reasoning": "because"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]},
    ],
    "wrong order": [
        {"role": "assistant", "content": "I begin."},
        {"role": "assistant", "content": "And go on."},
    ],
}

DOCUMENTS = [{"title": "One", "text": "First text."}, {"title": "Two", "text": "Second text."}]

# The variants of options each chat is rendered with.
VARIANTS = [
    {},
    {"add_generation_prompt": True, "enable_thinking": False, "controls": {"length": "short"}},
    {"add_generation_prompt": True, "tools": [WEATHER, NOW], "documents": DOCUMENTS,
     "reasoning_effort": "high"},
    {"tools": [WEATHER], "tools_in_user_message": False, "date_string": "1 Jan 2025"},
]
