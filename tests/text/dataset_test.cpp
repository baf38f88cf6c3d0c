// Records as tokens and masks: every kind, chats checked by hand, templates with and without
// generation blocks, typed special tokens, and the lines of what is wrong.
#include "text/dataset.h"

#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "golden.h"
#include "testing.h"

namespace hone {
namespace {

constexpr const char* kChatml =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}";

/// With what a tokenizer_config.json says of the ends of a text.
std::unique_ptr<Tokenizer> tokenizer_with(const std::string& name, const std::string& config) {
  return tokenizer_from_json(golden_text(name + ".tokenizer.json"), config, name);
}

const Tokenizer& smollm() {
  static const auto tokenizer = tokenizer_with("smollm", R"({"eos_token": "<|endoftext|>"})");
  return *tokenizer;
}

/// The tokens, with those that are learned in brackets where a run of them begins and ends.
std::string shown(const Sequence& s, const Tokenizer& tokenizer = smollm()) {
  std::string out;
  bool open = false;
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    if ((s.learned[i] != 0) != open) out += open ? "]" : "[";
    open = s.learned[i] != 0;
    out += tokenizer.token_bytes(s.tokens[i], i == 0);
  }
  return out + (open ? "]" : "");
}

std::vector<Sequence> read(const std::string& name, const std::string& bytes,
                           const DataOptions& options = {}, const std::string& chat_template = {},
                           const Tokenizer& tokenizer = smollm(), size_t piece = 1 << 20) {
  testing::TemporaryDirectory scratch;
  testing::put_file(scratch / name, bytes);
  const ExampleEncoder encoder(tokenizer, chat_template, options);
  std::vector<Sequence> all;
  bool ended = true;
  read_examples(
      scratch / name, encoder,
      [&](const Sequence& s, bool last) {
        if (ended) all.emplace_back();
        all.back().tokens.insert(all.back().tokens.end(), s.tokens.begin(), s.tokens.end());
        all.back().learned.insert(all.back().learned.end(), s.learned.begin(), s.learned.end());
        ended = last;
      },
      piece);
  return all;
}

std::string shown_file(const std::string& name, const std::string& bytes,
                       const DataOptions& options = {}, const std::string& chat_template = {}) {
  std::string out;
  for (const Sequence& s : read(name, bytes, options, chat_template))
    out += (out.empty() ? "" : " / ") + shown(s);
  return out;
}

std::string problem(const std::string& name, const std::string& bytes,
                    const DataOptions& options = {}, const std::string& chat_template = {}) {
  return error_of([&] { read(name, bytes, options, chat_template); });
}

TEST(Dataset, EveryKindIsSeenByItsFields) {
  const std::string question = "<|im_start|>user\nHi<|im_end|>\n",
                    answer = "<|im_start|>assistant\n[Yo<|im_end|>]\n";
  struct Case {
    const char *kind, *line;
    std::string expected;
  };
  const std::vector<Case> cases = {
      {"messages",
       R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]})",
       question + answer},
      {"conversations",
       R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]})",
       question + answer},
      {"instruction", R"({"instruction": "Hi", "input": "", "output": "Yo"})", question + answer},
      {"completion", R"({"prompt": "Hi", "completion": "Yo"})", question + answer},
      {"question", R"({"question": "Hi", "answer": "Yo"})", question + answer},
      {"question", R"({"question": "Hi", "answer": "Yo", "system": "Be."})",
       "<|im_start|>system\nBe.<|im_end|>\n" + question + answer},
      {"instruction", R"({"instruction": "Do", "input": "it", "output": "Yo"})",
       "<|im_start|>user\nDo\n\nit<|im_end|>\n" + answer},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(shown_file("d.jsonl", c.line, {}, kChatml), c.expected) << c.line;
    EXPECT_EQ(shown_file("d.json", std::string("[") + c.line + "]", {}, kChatml), c.expected);
    EXPECT_EQ(shown_file("d.txt", c.line, {.kind = c.kind}, kChatml), c.expected) << c.kind;
  }
  EXPECT_EQ(shown_file("d.jsonl", "{\"text\": \"One two\"}\n\"three\""),
            "O[ne two<|endoftext|>] / t[hree<|endoftext|>]");
  EXPECT_EQ(shown_file("d.txt", "One two\n<|endoftext|>\nthree\n"),
            "O[ne two<|endoftext|>] / t[hree\n<|endoftext|>]");
  EXPECT_EQ(shown_file("d.jsonl", "12 3", {.kind = "plain"}), "1[2 3<|endoftext|>]");
}

TEST(Dataset, FieldsMayHaveOtherNames) {
  DataOptions o;
  o.fields = "question=problem,answer=solution";
  o.format = "raw";
  EXPECT_EQ(shown_file("d.jsonl", R"({"problem": "1+1=", "solution": "2"})", o),
            "1+1=[2<|endoftext|>]");
  o.fields = "messages=chat,role=who,content=said";
  EXPECT_EQ(
      shown_file("d.jsonl",
                 R"({"chat": [{"who": "user", "said": "1="}, {"who": "assistant", "said": "2"}]})",
                 o),
      "1=[2<|endoftext|>]");
  for (const char* bad : {"question", "question=", "=x", "colour=x"}) {
    o.fields = bad;
    EXPECT_TRUE(problem("d.jsonl", "{}", o).starts_with("invalid_argument: names of fields"))
        << bad;
  }
}

TEST(Dataset, PlainFormat) {
  EXPECT_EQ(
      shown_file(
          "d.jsonl",
          R"({"conversations": [{"from": "system", "value": "Be."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}, {"from": "tool", "value": "x"}, {"from": "gpt", "value": "No"}]})"),
      "### Instructions\nBe.\n\n### Question\nHi\n\n### Answer\n[Yo<|endoftext|>]\n\n"
      "### Tool\nx\n\n### Answer\n[No<|endoftext|>]");
  // What the model is asked with is how the training text begins.
  const ChatTemplate plain(plain_chat_template(), "plain");
  ChatOptions ask;
  ask.add_generation_prompt = true;
  EXPECT_EQ(plain.render(Json::array({{{"role", "user"}, {"content", "Hi"}}}), ask),
            "### Question\nHi\n\n### Answer\n");
}

Json chat(std::initializer_list<std::pair<const char*, const char*>> messages) {
  Json list = Json::array();
  for (const auto& [role, content] : messages)
    list.push_back({{"role", role}, {"content", content}});
  return list;
}

TEST(Dataset, OptionsOfWhatIsLearned) {
  const Json talk = chat({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}});
  const std::string blocks =
      "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}{% generation %}"
      "{{ m.content }};{% endgeneration %}{% else %}{{ m.content + ';' }}{% endif %}{% endfor %}";
  auto of = [&](const std::string& source, const DataOptions& o) {
    return shown(ExampleEncoder(smollm(), source, o).conversation(talk));
  };
  EXPECT_EQ(of(blocks, {}), "user:a;assistant:[b;]user:c;assistant:[d;]");
  EXPECT_EQ(of(blocks, {.last_answer = true}), "user:a;assistant:b;user:c;assistant:[d;]");
  const std::string user = "<|im_start|>user\n", assistant = "<|im_start|>assistant\n",
                    end = "<|im_end|>";
  EXPECT_EQ(of(kChatml, {.last_answer = true}), user + "a" + end + "\n" + assistant + "b" + end +
                                                    "\n" + user + "c" + end + "\n" + assistant +
                                                    "[d" + end + "]\n");
  EXPECT_EQ(of(kChatml, {.learn_prompt = true}), "<|im_start|>[user\na" + end + "\n" + assistant +
                                                     "b" + end + "\n" + user + "c" + end + "\n" +
                                                     assistant + "d" + end + "\n]");
}

TEST(Dataset, AnswersOfTheGoldenTemplates) {
  const Json data = parse_json(
      read_text_file(fs::path(HONE_SOURCE_DIR) / "tests/golden/chat_templates.json"), "golden");
  const Json talk =
      chat({{"user", "Hello you"}, {"assistant", "Hi"}, {"user", "More"}, {"assistant", "No."}});
  struct Case {
    const char *name, *expected;
  };
  // Tokenised by a vocabulary that knows <|im_end|> and <|endoftext|> only: the ends of other
  // templates are text there, and stay learned to their last byte.
  for (const Case& c : std::vector<Case>{
           {"chatml",
            "<|im_start|>user\nHello you<|im_end|>\n<|im_start|>assistant\n[Hi<|im_end|>]\n"
            "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n[No.<|im_end|>]\n"},
           {"vicuna",
            "HUMAN: Hello you\nASSISTANT:[ Hi<|endoftext|>]HUMAN: More\nASSISTANT:[ "
            "No.<|endoftext|>]"},
           {"training",
            "<|user|>\nHello you\n<|assistant|>\n[Hi<|endoftext|>]\n<|user|>\nMore\n<|assistant|>\n"
            "[No.<|endoftext|>]\n"}}) {
    const ExampleEncoder encoder(smollm(), data["templates"][c.name].get<std::string>(), {});
    EXPECT_EQ(shown(encoder.conversation(talk)), c.expected) << c.name;
  }
}

TEST(Dataset, MasksEqualTransformers) {
  const Json data = parse_json(
      read_text_file(fs::path(HONE_SOURCE_DIR) / "tests/golden/chat_masks.json"), "golden");
  ASSERT_GE(data["cases"].size(), 150u);
  for (const Json& c : data["cases"]) {
    const auto name = c["tokenizer"].get<std::string>(), source = c["template"].get<std::string>();
    SCOPED_TRACE(name + ", " + source + ", chat " + c["chat"].dump());
    const auto tokenizer = golden_tokenizer(name);
    const ExampleEncoder encoder(*tokenizer, data["templates"][source].get<std::string>(), {});
    const Sequence s = encoder.conversation(data["chats"][c["chat"].get<size_t>()]);
    EXPECT_EQ(s.tokens, c["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(s.learned, c["mask"].get<std::vector<uint8_t>>());
  }
}

TEST(Dataset, RefusesTemplatesWhosePrefixesChange) {
  // The last answer is written in another way than the earlier ones.
  const std::string changing =
      "{% for m in messages %}{{ m.role + (': (new) ' if loop.last else ': ') + m.content + ';' }}"
      "{% endfor %}";
  const char* line =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})";
  const std::string error = problem("d.jsonl", line, {}, changing);
  EXPECT_TRUE(error.starts_with("unsupported: ")) << error;
  EXPECT_NE(error.find("d.jsonl:1: chat template 'chat_template': what it writes for the first 1 "
                       "messages does not begin what it writes for 2"),
            std::string::npos)
      << error;
}

TEST(Dataset, ConversationsThatWouldTakeForeverAreRefused) {
  Json talk = Json::array();
  for (int i = 0; i < 4000; ++i) {
    talk.push_back({{"role", "user"}, {"content", "tell me e\xCC\x81"}});
    talk.push_back({{"role", "assistant"}, {"content", "no"}});
  }
  EXPECT_NE(error_of([&] {
              ExampleEncoder(smollm(), kChatml, {}).conversation(talk);
            }).find("too many to be told apart"),
            std::string::npos);
  const auto qwen = golden_tokenizer("qwen2");
  EXPECT_NE(error_of([&] {
              ExampleEncoder(*qwen, "", {}).conversation(talk);
            }).find("too many to be found"),
            std::string::npos);
}

TEST(Dataset, TypedSpecialTokensAreText) {
  const Json talk = chat(
      {{"user", "say <|im_end|> or <|endoftext|><|im_end|>"}, {"assistant", "<|im_start|>system"}});
  const int32_t end = *smollm().token_id("<|im_end|>"), start = *smollm().token_id("<|im_start|>"),
                eos = *smollm().token_id("<|endoftext|>");
  auto count = [](const Sequence& s, int32_t id) {
    return std::count(s.tokens.begin(), s.tokens.end(), id);
  };
  const Sequence s = ExampleEncoder(smollm(), kChatml, {}).conversation(talk);
  EXPECT_EQ(shown(s),
            "<|im_start|>user\nsay <|im_end|> or <|endoftext|><|im_end|><|im_end|>\n"
            "<|im_start|>assistant\n[<|im_start|>system<|im_end|>]\n");
  EXPECT_EQ(count(s, end), 2);
  EXPECT_EQ(count(s, start), 2);
  EXPECT_EQ(count(s, eos), 0);
  const Sequence trusting =
      ExampleEncoder(smollm(), kChatml, {.special_in_contents = true}).conversation(talk);
  EXPECT_EQ(count(trusting, end), 4);
  EXPECT_EQ(count(trusting, start), 3);
  EXPECT_EQ(count(trusting, eos), 1);
  EXPECT_EQ(count(ExampleEncoder(smollm(), "", {}).document("a<|endoftext|>b"), eos),
            1);  // the one behind it
}

TEST(Dataset, RewrittenTextsKeepTheirMasks) {
  // NFC joins e and its accent, so the tokens of the prompt do not spell it.
  const auto qwen = golden_tokenizer("qwen2");
  const Json talk = chat({{"user", "cafe\xCC\x81 bar"},
                          {"assistant", "yes e\xCC\x81"},
                          {"user", "and"},
                          {"assistant", "no"}});
  EXPECT_EQ(shown(ExampleEncoder(*qwen, kChatml, {}).conversation(talk), *qwen),
            "<|im_start|>user\ncaf\xC3\xA9 bar<|im_end|>\n<|im_start|>assistant\n"
            "[yes \xC3\xA9<|im_end|>]\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"
            "[no<|im_end|>]\n");
}

TEST(Dataset, LongTextsInPartsGiveTheTokensOfTheWhole) {
  std::string text;
  for (const std::string& t : golden_texts())
    if (text.size() < 40'000 && t.find("</s>") == t.npos && t.find("<|endoftext|>") == t.npos)
      text += t + " and so on it goes\n";
  for (const std::string& name : golden_names()) {
    const auto tokenizer = golden_tokenizer(name);
    const auto whole = read("d.txt", text, {}, "", *tokenizer);
    const auto parts = read("d.txt", text, {}, "", *tokenizer, 2000);
    ASSERT_EQ(whole.size(), 1u) << name;
    ASSERT_EQ(parts.size(), 1u) << name;
    EXPECT_EQ(parts[0].tokens, whole[0].tokens) << name;
    EXPECT_EQ(parts[0].learned, whole[0].learned) << name;
    EXPECT_EQ(whole[0].learned[0], 0);
    EXPECT_EQ(std::count(whole[0].learned.begin(), whole[0].learned.end(), 0), 1);
  }
}

TEST(Dataset, SurroundsTextsAsTheTokenizerSays) {
  const auto llama = tokenizer_with("llama2", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  const Sequence s = ExampleEncoder(*llama, "", {}).document("a b");
  EXPECT_EQ(s.tokens.front(), *llama->bos());
  EXPECT_EQ(s.tokens.back(), *llama->eos());
  EXPECT_EQ(std::count(s.tokens.begin(), s.tokens.end(), *llama->bos()), 1);
  // So does the plain format, where the template is ours.
  const Json talk = chat({{"user", "a"}, {"assistant", "b"}});
  EXPECT_EQ(ExampleEncoder(*llama, "", {}).conversation(talk).tokens.front(), *llama->bos());
}

TEST(Dataset, BadRecordsAreNamedByTheirLine) {
  const std::string good = R"({"question": "a", "answer": "b"})";
  struct Case {
    std::string bytes, expected;
  };
  for (const Case& c : std::vector<Case>{
           {good + "\n{\"question\": ", "d.jsonl:2: not valid JSON"},
           {good + "\n\n{\"question\": 1, \"answer\": \"b\"}",
            "d.jsonl:3: 'question': expected a string, got a JSON number"},
           {good + "\n{\"question\": \"a\", \"colour\": 2}",
            "d.jsonl:2: expected the field 'answer'; found 'question', 'colour'"},
           {good + "\n[1]", "d.jsonl:2: expected the field 'question'; found a JSON array"},
           {"{\"colour\": 2}",
            "d.jsonl:1: unknown kind of data: found 'colour'; expected one of: "
            "messages; conversations; instruction, output; prompt, completion; "
            "question, answer; text"},
           {"{\"messages\": []}", "d.jsonl:1: 'messages': expected a list of at least one message"},
           {"{\"messages\": [1]}", "d.jsonl:1: expected each message to be an object"},
           {"{\"messages\": [{\"content\": \"a\"}]}", "d.jsonl:1: expected the field 'role'"},
           {"{\"conversations\": [{\"from\": \"cat\", \"value\": \"a\"}]}",
            "d.jsonl:1: a message is from 'cat'"},
           {"\n \n", "d.jsonl: it holds no example"},
           {"", "d.jsonl: the file is empty"}}) {
    const std::string error = problem("d.jsonl", c.bytes);
    EXPECT_TRUE(error.starts_with("corrupt: ")) << error;
    EXPECT_NE(error.find(c.expected), std::string::npos) << error;
  }
  EXPECT_NE(problem("d.json", "[\n" + good + ",\n{]").find("d.json:3: "), std::string::npos);
  EXPECT_TRUE(problem("d.jsonl", good, {.kind = "poem"}).starts_with("invalid_argument: "));
  EXPECT_TRUE(problem("d.jsonl", good, {.format = "odd"}).starts_with("invalid_argument: "));
  EXPECT_TRUE(problem("d.jsonl", good, {.format = "template"}).starts_with("invalid_argument: "));
}

TEST(Dataset, TheFirstBadLineIsNamedOnAnyNumberOfThreads) {
  std::string bytes;
  for (int i = 1; i <= 500; ++i)
    bytes += i % 100 == 0 ? "{bad\n"
                          : R"({"question": "a", "answer": "b"})"
                            "\n";
  for (int threads : {1, 0}) {
    set_threads(threads);
    EXPECT_NE(problem("d.jsonl", bytes).find("d.jsonl:100: "), std::string::npos);
  }
}

TEST(Dataset, ReadsGsm8k) {
  HONE_NEED_SHARED("train/gsm8k/train.jsonl");
  const ExampleEncoder encoder(smollm(), kChatml, {});
  int64_t examples = 0;
  read_examples(testing::shared_file("train/gsm8k/train.jsonl"), encoder,
                [&](const Sequence& s, bool last) {
                  ++examples;
                  EXPECT_TRUE(last);
                  const std::string text = shown(s);
                  const size_t open = text.find("\n<|im_start|>assistant\n[");
                  EXPECT_NE(open, std::string::npos) << text;
                  EXPECT_TRUE(text.ends_with("<|im_end|>]\n")) << text;
                });
  EXPECT_EQ(examples, 7473);
}

}  // namespace
}  // namespace hone
