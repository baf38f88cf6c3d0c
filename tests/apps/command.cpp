#include "apps/command.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <csignal>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "formats/peft.h"
#include "formats/safetensors.h"
#include "text/unicode.h"

namespace hone::testing {

const std::filesystem::path& cache_directory() {
  static const TemporaryDirectory cache;
  return cache.path();
}

namespace {

constexpr unsigned kSeconds = 300;

int anonymous_file(const std::string& content) {
  int fd = ::memfd_create("hone-test", MFD_CLOEXEC);
  if (fd < 0 || ::write(fd, content.data(), content.size()) != std::ssize(content))
    throw std::runtime_error("no anonymous file");
  ::lseek(fd, 0, SEEK_SET);
  return fd;
}

std::string content_of(int fd) {
  std::string text(static_cast<size_t>(::lseek(fd, 0, SEEK_END)), '\0');
  ::lseek(fd, 0, SEEK_SET);
  if (::read(fd, text.data(), text.size()) != std::ssize(text))
    throw std::runtime_error("cannot read back");
  ::close(fd);
  return text;
}

int spawn(const std::vector<std::string>& arguments, int in, int out, int err, int64_t file_limit) {
  std::vector<std::string> words{HONE_COMMAND};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  ::setenv("XDG_CACHE_HOME", cache_directory().c_str(), 1);
  int pid = ::fork();
  if (pid != 0) return pid;
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  ::alarm(kSeconds);
  if (file_limit > 0) {
    rlimit limit{static_cast<rlim_t>(file_limit), static_cast<rlim_t>(file_limit)};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ::execv(HONE_COMMAND, argv.data());
  ::_exit(127);
}

Json byte_level() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", true}};
}

Json tokenizer_json() {
  Json vocabulary = Json::object();
  for (int b = 0; b < 256; ++b)
    vocabulary[bytes_to_letters(std::string(1, static_cast<char>(b)))] = b;
  Json end = {{"id", 256},       {"content", "<|end|>"}, {"single_word", false}, {"lstrip", false},
              {"rstrip", false}, {"normalized", false},  {"special", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({end})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level()},
          {"post_processor", nullptr},
          {"decoder", byte_level()},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", Json::array()}}}};
}

}  // namespace

Outcome run_hone(const std::vector<std::string>& arguments, const RunOptions& o) {
  int in = anonymous_file(o.input), err = anonymous_file("");
  int out = o.output.empty() ? anonymous_file("") : ::open(o.output.c_str(), O_WRONLY);
  int pid = spawn(arguments, in, out, err, o.max_file_bytes);
  int wait = 0;
  ::waitpid(pid, &wait, 0);
  ::close(in);
  Outcome run;
  if (WIFEXITED(wait)) run.status = WEXITSTATUS(wait);
  if (WIFSIGNALED(wait)) run.signal = WTERMSIG(wait);
  if (o.output.empty())
    run.out = content_of(out);
  else
    ::close(out);
  run.err = content_of(err);
  return run;
}

int start_hone(const std::vector<std::string>& arguments, const Streams& s) {
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  auto given = [null](int fd) { return fd >= 0 ? fd : null; };
  int pid = spawn(arguments, given(s.in), given(s.out), given(s.err), 0);
  ::close(null);
  return pid;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

Json last_json(const std::string& out, int* others) {
  std::vector<std::string> lines = lines_of(out);
  EXPECT_FALSE(lines.empty());
  if (lines.empty()) return Json::object();
  if (others != nullptr) *others = static_cast<int>(lines.size()) - 1;
  Json j = Json::parse(lines.back(), nullptr, false);
  EXPECT_TRUE(j.is_object()) << lines.back();
  return j.is_object() ? j : Json::object();
}

std::vector<std::string> names_below(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& e : fs::recursive_directory_iterator(directory))
    names.push_back(fs::relative(e.path(), directory).string());
  std::sort(names.begin(), names.end());
  return names;
}

void expect_refusal(const Outcome& run, int status, const std::vector<std::string>& parts) {
  EXPECT_EQ(run.signal, 0);
  EXPECT_EQ(run.status, status) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(lines_of(run.err).size(), 1u) << run.err;
  EXPECT_EQ(run.err.rfind("hone: ", 0), 0u) << run.err;
  EXPECT_LT(run.err.size(), 1000u) << run.err;
  for (const std::string& part : parts)
    EXPECT_NE(run.err.find(part), std::string::npos) << "no '" << part << "' in: " << run.err;
}

void TinyModel::write(const fs::path& directory) const {
  fs::create_directories(directory);
  std::map<std::string, Tensor> tensors;
  uint32_t seed = 1;
  auto add = [&](const std::string& name, Shape shape, float scale) {
    Tensor t = random_tensor(shape, seed++, scale);
    if (shape.size() == 1)
      for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data<float>()[i] += 1;
    DType dtype = type == "f16" ? DType::f16 : type == "bf16" ? DType::bf16 : DType::f32;
    tensors[name + ".weight"] = dtype == DType::f32 ? t : t.to(dtype);
  };
  int64_t head = width / heads;
  add("model.embed_tokens", {vocabulary, width}, 1);
  add("model.norm", {width}, 0.1f);
  for (int64_t i = 0; i < layers; ++i) {
    std::string p = "model.layers." + std::to_string(i) + ".";
    add(p + "input_layernorm", {width}, 0.1f);
    add(p + "self_attn.q_proj", {heads * head, width}, 0.3f);
    add(p + "self_attn.k_proj", {kv_heads * head, width}, 0.3f);
    add(p + "self_attn.v_proj", {kv_heads * head, width}, 0.3f);
    add(p + "self_attn.o_proj", {width, heads * head}, 0.3f);
    add(p + "post_attention_layernorm", {width}, 0.1f);
    add(p + "mlp.gate_proj", {ffn, width}, 0.3f);
    add(p + "mlp.up_proj", {ffn, width}, 0.3f);
    add(p + "mlp.down_proj", {width, ffn}, 0.3f);
  }
  SafetensorsWriter writer(directory / "model.safetensors", {{"format", "pt"}});
  for (const auto& [name, t] : tensors) writer.declare(name, t.dtype(), t.shape());
  for (const std::string& name : writer.order()) writer.write(name, tensors.at(name));
  writer.finish();
  Json config = {{"model_type", "llama"},        {"architectures", {"LlamaForCausalLM"}},
                 {"hidden_act", "silu"},         {"vocab_size", vocabulary},
                 {"hidden_size", width},         {"num_hidden_layers", layers},
                 {"num_attention_heads", heads}, {"num_key_value_heads", kv_heads},
                 {"intermediate_size", ffn},     {"max_position_embeddings", 96},
                 {"rms_norm_eps", 1e-5},         {"tie_word_embeddings", true},
                 {"torch_dtype", "float64"}};
  write_bytes(directory / "config.json", config.dump(2));
  write_bytes(directory / "tokenizer.json", tokenizer_json().dump());
  write_bytes(directory / "tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  if (chat)
    write_bytes(directory / "chat_template.jinja",
                "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
                "{% if add_generation_prompt %}[assistant]{% endif %}");
}

void write_adapter(const fs::path& directory, float scale, const TinyModel& of) {
  PeftAdapter adapter;
  adapter.config.peft_type = "LORA";
  adapter.config.task_type = "CAUSAL_LM";
  adapter.config.r = 2;
  adapter.config.lora_alpha = 2;
  adapter.config.target_modules.names = {"q_proj", "down_proj"};
  uint32_t seed = 50;
  auto add = [&](const std::string& module, int64_t out, int64_t in) {
    adapter.tensors[peft_tensor_name({module, "lora_A.weight"})] =
        random_tensor({2, in}, ++seed, scale);
    adapter.tensors[peft_tensor_name({module, "lora_B.weight"})] =
        random_tensor({out, 2}, ++seed, scale);
  };
  for (int64_t i = 0; i < of.layers; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    add(p + "self_attn.q_proj", of.width, of.width);
    add(p + "mlp.down_proj", of.width, of.ffn);
  }
  write_peft_directory(directory, adapter);
}

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace hone::testing
