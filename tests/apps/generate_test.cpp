// generate and chat: sampling flags, stops, the prompt's echo, and conversations.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/command.h"
#include "text/unicode.h"

namespace hone::testing {
namespace {

struct Generate : ::testing::Test {
  Generate() : model((scratch / "model").string()) { TinyModel().write(model); }

  Outcome generate(const std::vector<std::string>& more, const std::string& prompt = "The sea") {
    std::vector<std::string> arguments{"generate", model, "--prompt", prompt};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Outcome run = run_hone(arguments);
    EXPECT_EQ(run.status, 0) << run.err;
    return run;
  }
  Json generate_json(std::vector<std::string> more, const std::string& prompt = "The sea") {
    more.push_back("--json");
    return last_json(generate(more, prompt).out);
  }
  std::vector<int> tokens(const std::vector<std::string>& more) {
    return generate_json(more)["tokens"].get<std::vector<int>>();
  }

  TemporaryDirectory scratch;
  std::string model;
};

TEST_F(Generate, EchoesThePromptAndContinuesIt) {
  Json j = generate_json({"--max-tokens", "8"});
  EXPECT_EQ(j["prompt_tokens"], 7);
  EXPECT_EQ(j["tokens"].size(), 8u);
  EXPECT_EQ(j["finish_reason"], "length");
  EXPECT_EQ(generate({"--max-tokens", "8"}).out, "The sea" + j["text"].get<std::string>() + "\n");
  EXPECT_EQ(generate({"--max-tokens", "0"}).out, "The sea\n");
}

TEST_F(Generate, ReadsThePromptFromAFile) {
  write_bytes(scratch / "prompt.txt", "The sea");
  Outcome run = run_hone(
      {"generate", model, "--prompt-file", (scratch / "prompt.txt").string(), "--max-tokens", "8"});
  EXPECT_EQ(run.out, generate({"--max-tokens", "8"}).out);
}

TEST_F(Generate, TheSeedDecidesTheText) {
  const std::vector<std::string> warm{"--temperature", "1", "--max-tokens", "24"};
  auto with_seed = [&](const char* seed) {
    std::vector<std::string> arguments = warm;
    arguments.insert(arguments.end(), {"--seed", seed});
    return tokens(arguments);
  };
  EXPECT_EQ(with_seed("7"), with_seed("7"));
  EXPECT_NE(with_seed("7"), with_seed("8"));
  EXPECT_EQ(tokens({"--max-tokens", "24", "--seed", "1"}), tokens({"--max-tokens", "24"}));
}

TEST_F(Generate, EverySamplerFlagNarrowsTheChoice) {
  const std::vector<int> greedy = tokens({"--max-tokens", "16"});
  auto sampled = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--max-tokens", "16", "--temperature", "5", "--seed", "3"});
    return tokens(more);
  };
  EXPECT_NE(sampled({}), greedy);
  EXPECT_EQ(sampled({"--top-k", "1"}), greedy);
  EXPECT_EQ(sampled({"--top-p", "0.000001"}), greedy);
  EXPECT_EQ(sampled({"--min-p", "1"}), greedy);
  EXPECT_NE(sampled({"--top-k", "3"}), sampled({}));
}

TEST_F(Generate, TheRepetitionPenaltySeesPromptAndOutput) {
  auto first_token = [&](const std::string& prompt, const char* penalty) {
    return generate_json({"--max-tokens", "1", "--repetition-penalty", penalty},
                         prompt)["tokens"][0]
        .get<int>();
  };
  std::string prompt;  // one whose likeliest continuation is a character of its own
  std::string all;
  for (char c = ' '; c < 'p'; ++c) all += c;
  for (size_t turn = 0; turn < 20 && prompt.empty(); ++turn) {
    std::rotate(all.begin(), all.begin() + 7, all.end());
    if (all.find(static_cast<char>(first_token(all, "1"))) != std::string::npos) prompt = all;
  }
  ASSERT_NE(prompt, "");
  EXPECT_EQ(prompt.find(static_cast<char>(first_token(prompt, "100"))), std::string::npos);
  std::vector<int> spread = tokens({"--max-tokens", "20", "--repetition-penalty", "100"});
  EXPECT_EQ(std::set<int>(spread.begin(), spread.end()).size(), spread.size());
}

TEST_F(Generate, AStopTextEndsTheTextAndIsNotPrinted) {
  const std::string all = generate_json({"--max-tokens", "24"})["text"].get<std::string>();
  std::vector<std::string> characters;
  for (size_t at = 0; at < all.size(); at += characters.back().size())
    characters.push_back(all.substr(at, static_cast<size_t>(utf8_at(all, at).size)));
  ASSERT_GE(characters.size(), 9u);
  // Two characters are two tokens at least: the first is held back until the second is known.
  const std::string stop = characters[7] + characters[8], kept = all.substr(0, all.find(stop));
  // Beside a stop that never comes, and with the model behind the flags.
  Outcome run = run_hone({"generate", "--stop", stop, "--stop", "nowhere", model, "--prompt",
                          "The sea", "--max-tokens", "24", "--json"});
  Json j = last_json(run.out);
  EXPECT_EQ(j["text"], kept) << run.err;
  EXPECT_EQ(j["finish_reason"], "stop");
  EXPECT_EQ(generate({"--stop", stop, "--max-tokens", "24"}).out, "The sea" + kept + "\n");
  // Held back in vain: what looked like its beginning comes after all.
  EXPECT_EQ(generate({"--stop", stop + "\n\n\n", "--max-tokens", "24"}).out,
            "The sea" + all + "\n");
}

TEST_F(Generate, AHugeMaxTokensEndsWithTheContext) {
  Json j = generate_json({"--max-tokens", "1000000000"});
  EXPECT_EQ(j["finish_reason"], "length");
  EXPECT_EQ(j["tokens"].size(), 96u - 7 + 1);
}

TEST_F(Generate, ATooLongPromptIsRefusedBeforeItIsPrinted) {
  expect_refusal(run_hone({"generate", model, "--prompt", std::string(200, 'x')}), 1,
                 {"200", "96", model});
}

TEST_F(Generate, StreamingHasNoEndAndConstantMemory) {
  auto stream = [&](const char* tokens, const std::string& prompt = "The sea") {
    return generate_json({"--streaming", "--window", "32", "--ignore-eos", "--max-tokens", tokens},
                         prompt);
  };
  const Json few = stream("400"), many = stream("800");
  EXPECT_EQ(few["tokens"].size(), 400u);
  EXPECT_EQ(many["tokens"].size(), 800u);
  EXPECT_EQ(many["tokens"][399], few["tokens"][399]);
  EXPECT_LE(many["kv_bytes"], few["kv_bytes"].get<int64_t>() * 3 / 2) << "a page more or less";
  EXPECT_EQ(stream("3", std::string(200, 'x'))["prompt_tokens"], 200);
  expect_refusal(run_hone({"generate", model, "--prompt", "a", "--streaming", "--window", "93"}), 1,
                 {"4 sinks", "93", "96"});
}

struct Chat : Generate {
  Json chat(const std::vector<std::string>& more, const std::string& input = "",
            const std::string& max_tokens = "5") {
    std::vector<std::string> arguments{"chat", model, "--json", "--max-tokens", max_tokens};
    arguments.insert(arguments.end(), more.begin(), more.end());
    RunOptions o;
    o.input = input;
    Outcome run = run_hone(arguments, o);
    EXPECT_EQ(run.status, 0) << run.err;
    int others = -1;
    Json j = last_json(run.out, &others);
    EXPECT_EQ(others, 0);
    return j;
  }
};

TEST_F(Chat, CountsTheWholeConversation) {
  Json j = chat({"--message", "hi", "--message", "again", "--temperature", "0"});
  ASSERT_EQ(j["answers"].size(), 2u);
  const Json &first = j["answers"][0], &second = j["answers"][1];
  // "[user]hi\n[assistant]"
  EXPECT_EQ(first["prompt_tokens"], 20);
  EXPECT_EQ(first["cached_tokens"], 0);
  // A byte is a token: what the template makes of all three messages.
  size_t conversation =
      ("[user]hi\n[assistant]" + first["text"].get<std::string>() + "\n[user]again\n[assistant]")
          .size();
  EXPECT_EQ(second["prompt_tokens"].get<size_t>(), conversation);
  EXPECT_GE(second["cached_tokens"].get<int>(), 20);
  ASSERT_EQ(j["messages"].size(), 4u);
  EXPECT_EQ(j["messages"][3]["role"], "assistant");
  EXPECT_EQ(j["messages"][3]["content"], second["text"]);
}

TEST_F(Chat, StreamingGoesPastTheContext) {
  const std::string message(60, 'x');
  Json j = chat({"--streaming", "--message", message, "--message", message, "--message", message});
  ASSERT_EQ(j["answers"].size(), 3u);
  EXPECT_GT(j["answers"][2]["prompt_tokens"], 200);
}

TEST_F(Chat, ReadsMessagesFromStdin) {
  Json spoken = chat({"--message", "hi", "--message", "again"});
  Json typed = chat({}, "hi\n\nagain\n");
  EXPECT_EQ(typed["messages"], spoken["messages"]);
  EXPECT_TRUE(chat({}, "")["answers"].empty());
}

TEST_F(Chat, PrintsAnswersToStdoutAndStopsAtStopTexts) {
  RunOptions o;
  o.input = "hi\n";
  const std::vector<std::string> base{"chat", model, "--temperature", "0", "--max-tokens", "12"};
  Outcome run = run_hone(base, o);
  EXPECT_EQ(run.status, 0) << run.err;
  Json j = chat({"--message", "hi", "--temperature", "0"}, "", "12");
  const std::string text = j["answers"][0]["text"].get<std::string>();
  EXPECT_EQ(run.out, text + "\n");
  size_t at = 1;
  while (at < text.size() && static_cast<unsigned char>(text[at]) >= 128) ++at;
  ASSERT_LT(at, text.size());
  const std::string stop(1, text[at]);
  j = chat({"--message", "hi", "--temperature", "0", "--stop", stop}, "", "12");
  EXPECT_EQ(j["answers"][0]["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(j["answers"][0]["finish_reason"], "stop");
}

TEST_F(Chat, RefusesAModelWithoutTemplateAndAConversationTooLong) {
  TinyModel plain;
  plain.chat = false;
  plain.write(scratch / "plain");
  expect_refusal(run_hone({"chat", (scratch / "plain").string(), "--message", "x"}), 1,
                 {"no chat template"});
  expect_refusal(run_hone({"chat", model, "--message", std::string(100, 'x')}), 1, {"118", "96"});
}

}  // namespace
}  // namespace hone::testing
