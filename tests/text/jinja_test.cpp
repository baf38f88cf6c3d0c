// The Jinja interpreter against jinja2 under Hugging Face's settings (goldens of
// tools/golden/make_chat_templates.py), and against templates written to harm.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "text/chat_template.h"

namespace hone {
namespace {

Json golden(const std::string& name) {
  const fs::path path = fs::path(HONE_SOURCE_DIR) / "tests" / "golden" / (name + ".json");
  return parse_json(read_text_file(path), path.string());
}

Json one_message() { return Json::array({{{"role", "user"}, {"content", "Hi"}}}); }

/// The output, or the error's message after "error: ".
std::string rendered(const std::string& source, const ChatOptions& options = {}) {
  try {
    return ChatTemplate(source, "test").render(one_message(), options);
  } catch (const Error& e) {
    return std::string("error: ") + e.what();
  }
}

TEST(Jinja, SnippetsEqualJinja2) {
  const Json data = golden("jinja");
  ChatOptions options;
  options.extra = data["variables"];
  ASSERT_GE(data["cases"].size(), 250u);
  for (const Json& test : data["cases"]) {
    const std::string source = test[0].get<std::string>(), got = rendered(source, options);
    if (test[1].is_null()) {
      EXPECT_TRUE(got.starts_with("error: ")) << source << "\n" << got;
    } else {
      EXPECT_EQ(got, test[1].get<std::string>()) << source;
    }
  }
}

ChatOptions chat_options(const Json& variant, const Json& tokens) {
  ChatOptions options;
  options.bos_token = tokens["bos_token"].get<std::string>();
  options.eos_token = tokens["eos_token"].get<std::string>();
  for (const auto& [key, value] : variant.items()) {
    if (key == "add_generation_prompt") {
      options.add_generation_prompt = value.get<bool>();
    } else if (key == "tools") {
      options.tools = value;
    } else if (key == "documents") {
      options.documents = value;
    } else {
      options.extra[key] = value;
    }
  }
  std::tm now{};
  now.tm_year = 2024 - 1900, now.tm_mon = 6, now.tm_mday = 26, now.tm_wday = 5, now.tm_yday = 207;
  now.tm_hour = 13, now.tm_min = 5, now.tm_sec = 9;
  options.now = now;
  return options;
}

class ChatTemplateGolden : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, ChatTemplateGolden,
                         ::testing::Values("chat_templates", "chat_template_families"));

TEST_P(ChatTemplateGolden, PromptsEqualTransformers) {
  const Json data = golden(GetParam());
  ASSERT_GE(data["templates"].size(), 10u);
  for (const Json& test : data["cases"]) {
    const auto name = test["template"].get<std::string>();
    const auto chat = test["chat"].get<std::string>();
    SCOPED_TRACE(name + " on " + chat + ", variant " + test["variant"].dump());
    const ChatTemplate model(data["templates"][name].get<std::string>(), name);
    const ChatOptions options =
        chat_options(data["variants"][test["variant"].get<size_t>()], data["tokens"]);
    if (test["prompt"].is_null()) {
      EXPECT_THROW(model.render(data["chats"][chat], options), Error);
      continue;
    }
    std::vector<jinja::Span> spans;
    EXPECT_EQ(model.render(data["chats"][chat], options, &spans),
              test["prompt"].get<std::string>());
    Json generated = Json::array();
    for (const auto& span : spans) generated.push_back({span.begin, span.end});
    EXPECT_EQ(generated, test.value("generated", Json::array()));
  }
}

TEST(ChatTemplate, ErrorsNameTemplateAndLine) {
  EXPECT_EQ(rendered("a\n{{ x.y }}"), "error: chat template 'test', line 2: 'x' is undefined");
  EXPECT_EQ(rendered("{% set n = 1 %}\n\n{{ n | shuffle }}"),
            "error: chat template 'test', line 3: no filter named 'shuffle'");
  EXPECT_EQ(rendered("{{ raise_exception('Roles must alternate') }}"),
            "error: chat template 'test', line 1: Roles must alternate");
  EXPECT_EQ(rendered("\n{% endfor %}"),
            "error: chat template 'test', line 2: unknown tag 'endfor'");
  EXPECT_EQ(rendered("{% macro f() %}\n{{ 1 / 0 }}\n{% endmacro %}\n{{ f() }}"),
            "error: chat template 'test', line 2: division by zero");
}

TEST(ChatTemplate, ErrorKindsTellTheCause) {
  const auto kind = [](const std::string& source) {
    try {
      ChatTemplate(source, "test").render(one_message());
    } catch (const Error& e) {
      return e.kind();
    }
    return ErrorKind::internal;
  };
  EXPECT_EQ(kind("{% if %}"), ErrorKind::corrupt);
  EXPECT_EQ(kind("\xff"), ErrorKind::corrupt);
  EXPECT_EQ(kind("{{ 'a' | urlize }}"), ErrorKind::unsupported);
  EXPECT_EQ(kind("{% include 'x' %}"), ErrorKind::unsupported);
  EXPECT_EQ(kind("{{ 2 ** 64 }}"), ErrorKind::unsupported);
  EXPECT_EQ(kind("{{ 1 + 'a' }}"), ErrorKind::invalid_argument);
}

TEST(ChatTemplate, RefusesWhatIsNoChat) {
  const ChatTemplate model("{{ messages | length }}", "test");
  EXPECT_THROW(model.render(Json::array()), Error);
  EXPECT_THROW(model.render(Json::object()), Error);
  EXPECT_THROW(model.render(Json::array({"text"})), Error);
  EXPECT_THROW(model.render(Json::array({{{"content", "\xff"}}})), Error);
  EXPECT_THROW(model.render(Json::array({{{"id", uint64_t{1} << 63}}})), Error);
}

TEST(ChatTemplate, TimeIsTheCallersOrTheClocks) {
  ChatOptions options = chat_options(Json::object(), {{"bos_token", ""}, {"eos_token", ""}});
  EXPECT_EQ(rendered("{{ strftime_now('%Y-%m-%d %H:%M:%S %a %b %j %f%z|%%') }}", options),
            "2024-07-26 13:05:09 Fri Jul 208 000000|%");
  EXPECT_EQ(rendered("{{ strftime_now('%Y') | length }}"), "4");
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(ChatTemplate, NestingIsLimitedWhereverItGrows) {
  const std::vector<std::string> deep = {
      "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}",
      "{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}",
      "{{ " + repeated("{1:", 5000) + "1" + repeated("}", 5000) + " }}",
      "{{ " + repeated("-", 5000) + "1 }}",
      "{{ " + repeated("not ", 5000) + "1 }}",
      "{{ 1" + repeated(" if 1 else 1", 5000) + " }}",
      "{{ 1" + repeated("+1", 5000) + " }}",
      "{{ 1" + repeated("**1", 5000) + " }}",
      "{{ 1" + repeated(" or 1", 5000) + " }}",
      "{{ 1" + repeated(" | abs", 5000) + " }}",
      "{{ x" + repeated(".y", 5000) + " }}",
      "{{ x" + repeated("[0]", 5000) + " }}",
      "{{ x" + repeated("()", 5000) + " }}",
      "{{ " + repeated("f(", 5000) + repeated(")", 5000) + " }}",
      repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000),
      repeated("{% for x in [1] %}", 5000) + repeated("{% endfor %}", 5000),
      repeated("{% macro f() %}", 5000) + repeated("{% endmacro %}", 5000),
      "{% for " + repeated("(", 5000) + "x" + repeated(")", 5000) + " in y %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{% if x %}{{ g(x) }}{% endif %}{% endmacro %}"
      "{% macro g(x) %}{% call f(x) %}{% endcall %}{% endmacro %}{{ g(1) }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}"
      "{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}"
      "{% set ns.x = {'x': ns.x, 'y': ns.x} %}{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}"
      "{% set ns.x = [ns.x] | select('defined') %}{% endfor %}",
      "{% set ns = namespace(x='') %}{% for i in range(1000) %}"
      "{% set ns.x = cycler(ns.x).next %}{% endfor %}",
      "{% set ns = namespace() %}{% for i in range(1000) %}{% set ns = namespace(n=ns) %}"
      "{% endfor %}{% set a = namespace() %}{% for i in range(1000) %}{% set b = namespace(n=a.n) "
      "%}"
      "{% set a.n = b %}{% endfor %}{{ a }}",
  };
  for (const std::string& source : deep) {
    const std::string got = rendered(source);
    EXPECT_TRUE(got.starts_with("error: ")) << source.substr(0, 200) << "\n" << got.substr(0, 200);
  }
}

TEST(ChatTemplate, WorkAndMemoryAreLimited) {
  const std::string grow =
      "{% set ns = namespace(x=START) %}{% for i in range(100) %}"
      "{% set ns.x = STEP %}{% endfor %}{{ ns.x | length }}";
  const auto growing = [&](const std::string& start, const std::string& step) {
    std::string source = grow;
    source.replace(source.find("START"), 5, start);
    return source.replace(source.find("STEP"), 4, step);
  };
  const std::vector<std::string> hostile = {
      "{{ range(10**12) | length }}",
      "{{ range(-9223372036854775807, 9223372036854775807, 9223372036854775807) }}"
      "{% for i in range(100001) %}{% endfor %}",
      "{{ 'a' * 10**9 }}",
      "{{ 10**9 * 'a' }}",
      "{{ [0] * 10**9 }}",
      "{{ (0,) * 10**18 }}",
      "{{ 'ab' * 9223372036854775807 }}",
      growing("'a'", "ns.x + ns.x"),
      growing("'a'", "ns.x ~ ns.x"),
      growing("'a'", "ns.x.replace('a', 'aaaaaaaa')"),
      growing("'a'", "ns.x | replace('', 'bb')"),
      growing("'ab'", "ns.x.join(ns.x)"),
      growing("'a'", "'%s%s' % (ns.x, ns.x)"),
      growing("'a'", "'{0}{0}'.format(ns.x)"),
      growing("'<'", "(ns.x ~ ns.x) | forceescape"),
      growing("'\"'", "ns.x | tojson"),
      growing("[1]", "ns.x + ns.x"),
      growing("[1]", "[ns.x, ns.x]") + "{{ ns.x }}",
      growing("[1]", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
      growing("(1,)", "(ns.x, ns.x)") + "{{ {ns.x: 1} }}{{ {ns.x: 1}[ns.x] }}",
      "{% set ns = namespace(x=(1,), y=(1,)) %}{% for i in range(100) %}{% set ns.x = (ns.x, ns.x) "
      "%}"
      "{% set ns.y = (ns.y, ns.y) %}{% endfor %}{{ ns.x == ns.y }}{{ ns.x < ns.y }}",
      "{{ 'a'.center(10**12) }}",
      "{{ 'a'.ljust(9223372036854775807) }}",
      "{{ 'a'.zfill(10**12) }}",
      "{{ 'a\t'.expandtabs(10**12) }}",
      "{{ 'a' | center(10**12) }}",
      "{{ 'a\nb' | indent(10**12) }}",
      "{{ [1] | batch(10**12, 'x') | list }}",
      "{{ [1] | slice(10**12) | list }}",
      "{{ [1] | tojson(indent=10**12) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '%.1000000000f' % 1 }}",
      "{{ '%*d' % (1000000000, 1) }}",
      "{{ '%.999999999999999999999d' % 1 }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ '{:.1000000000f}'.format(1.0) }}",
      "{{ 2 ** 63 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ -9223372036854775807 - 2 }}",
      "{{ 9223372036854775807 * 2 }}",
      "{{ 9223372036854775808 }}",
      "{{ '99999999999999999999' | int }}",
      "{{ 1e30 | int }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
      "{% set x = 'x' * 10000000 %}{% for a in range(99999) %}{{ 'y' in x }}{% endfor %}",
      "{% set x = 'é' * 10000000 %}{% for a in range(99999) %}{{ x[5000000] }}{% endfor %}",
      "{% set x = 'x' * 10000000 %}{% for a in range(99999) %}{{ x == x ~ '' }}{% endfor %}",
      "{% set x = 'x' * 10000000 %}{{ x | list | length }}",
      "{% set x = range(99999) | list %}{% for a in range(99999) %}{{ 'y' in x }}{% endfor %}",
      "{% set x = range(99999) | list %}{% for a in range(99999) %}{{ x | sort | first }}{% endfor "
      "%}",
      "{% macro f(k) %}{% for i in range(9) %}{{ f(k - 1) if k }}{% endfor %}{% endmacro %}{{ "
      "f(50) }}",
      // A loop without end, by a list that grows while it is walked.
      "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% for j in ns.x %}"
      "{% set ns.x = ns.x + [j] %}{% endfor %}{% endfor %}",
      "{% for i in range(10**9) %}{% endfor %}",
      "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
      "{{ range(99999) | map('string') | join('x' * 100000) }}",
      "{{ ('a' * 100000).split('a') | join('b' * 100000) }}",
      "{{ ('a,' * 5000000).split(',') | sort | unique | list | length }}"
      "{% for i in range(9999) %}{{ ('b,' * 5000000).split(',') | length }}{% endfor %}",
      "{% for i in range(99999) %}{{ messages * 1000000 }}{% endfor %}",
      "{{ 'a' | replace('a', 'b' * 100000) | replace('b', 'c' * 100000) }}",
      "{% set x = 'ab' * 1000000 %}{% for i in range(9999) %}{{ x | replace('a', 'b') | length }}"
      "{% endfor %}",
      "{% set x = 'ab ' * 1000000 %}{% for i in range(9999) %}{{ x | title | length }}"
      "{{ x | wordcount }}{% endfor %}",
      "{% set x = range(99999) | list %}{% for i in range(9999) %}{{ x | tojson | length }}"
      "{% endfor %}",
      "{% set x = range(9999) | list %}{% for i in x %}{{ x | groupby('real') | list | length }}"
      "{% endfor %}",
      "{% macro f(n) %}{{ caller() if caller else '' }}{% call f(n + 1) %}{{ n }}{% endcall %}"
      "{% endmacro %}{{ f(0) }}",
      "{% filter upper %}{% for a in range(99999) %}{% for b in range(99999) %}a{% endfor %}"
      "{% endfor %}{% endfilter %}",
      "{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}a{% endfor %}"
      "{% endfor %}{% endset %}",
  };
  for (const std::string& source : hostile) {
    const auto begin = std::chrono::steady_clock::now();
    // A tenth of what is allowed, so that the test does not take minutes.
    ChatOptions options;
    options.limits.max_steps = 200'000;
    const std::string got = rendered(source, options);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_TRUE(got.starts_with("error: ")) << source << "\n" << got.substr(0, 200);
    EXPECT_LT(took.count(), 60) << source;
  }
}

TEST(ChatTemplate, LimitsAreTheCallers) {
  ChatOptions options;
  options.limits.max_steps = 1000;
  EXPECT_EQ(rendered("{% for i in range(100) %}{{ i }}{% endfor %}", options).size(), 190u);
  EXPECT_NE(rendered("{% for i in range(1000) %}{{ i }}{% endfor %}", options).find("1000 steps"),
            std::string::npos);
  options.limits.max_output_bytes = 10;
  EXPECT_EQ(rendered("0123456789", options), "0123456789");
  EXPECT_NE(rendered("0123456789a", options).find("10 bytes"), std::string::npos);
  EXPECT_NE(rendered("{% set x %}0123456789a{% endset %}", options).find("10 bytes"),
            std::string::npos);
  options.limits = {};
  options.limits.max_value_bytes = 10000;
  EXPECT_EQ(rendered("{{ ('x' * 5000) | length }}", options), "5000");
  EXPECT_NE(rendered("{{ ('x' * 20000) | length }}", options).find("10000 bytes"),
            std::string::npos);
  // What is no longer held does not count.
  EXPECT_EQ(rendered("{% for i in range(99) %}{{ ('x' * 1000) | length }}{% endfor %}", options),
            repeated("1000", 99));
}

TEST(ChatTemplate, LongChatsFitTheDefaultLimits) {
  Json messages = Json::array();
  for (int i = 0; i < 2000; ++i) {
    messages.push_back(
        {{"role", i % 2 ? "assistant" : "user"}, {"content", repeated("word ", 200)}});
  }
  const ChatTemplate model(
      "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '\n' }}"
      "{% endfor %}",
      "test");
  EXPECT_GT(model.render(messages).size(), 2'000'000u);
}

}  // namespace
}  // namespace hone
