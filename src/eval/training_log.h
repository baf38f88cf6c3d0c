// The log of one training: what it is, and what each step and each evaluation gave.
//
// On disk it is JSON Lines, written as the training goes, so that it can be followed and survives
// an interruption:
//
//   {"format":"hone training log","format_version":1,"title":..,"settings":{..},..}
//   {"step":1,"loss":5.61,"norm":1.2,"lr":0.0003,"tokens":2048,"seconds":1.1,"loss_scale":1,
//    "skipped":false}                                                           (on one line)
//   {"step":100,"eval_loss":3.3,"perplexity":27.1}
//
// A number that is not finite is null, "inf" or "-inf". Whatever draws a training (text_chart.h,
// live_chart.h, training_page.h) draws this struct.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace hone {

struct TrainingLog {
  struct Step {
    int64_t step = 0;  ///< 1 for the first
    double loss = 0;   ///< mean over the step's target tokens, nats
    double norm = 0;   ///< of all gradients before clipping
    double lr = 0;
    int64_t tokens = 0;
    double seconds = 0;  ///< that this step took
    double loss_scale = 1;
    bool skipped = false;  ///< a gradient was not finite
  };
  struct Evaluation {
    int64_t step = 0;  ///< after how many steps; 0: before the first
    double loss = 0;   ///< mean over the held-out target tokens, nats
  };

  std::string title, model, method, machine;
  std::vector<std::string> notes;                             ///< what a reader has to know
  std::vector<std::pair<std::string, std::string>> settings;  ///< no name twice
  std::vector<Step> steps;                                    ///< in order, no step twice
  std::vector<Evaluation> evaluations;                        ///< likewise

  /// Drops what came after `step`, which a run resumed from there does again.
  void truncate(int64_t step);
  double seconds() const;
  int64_t tokens() const;
};

/// exp(loss), as in the log.
double perplexity_of(double loss);

/// Reads a log. What an interruption left of a last line is dropped; anything else that is not as
/// above raises corrupt, naming the line. Keys that are not known are ignored.
TrainingLog read_training_log(const std::filesystem::path& path);

/// A log in memory, and its file, which receives each entry at once.
class TrainingLogFile {
 public:
  /// Puts `log`, with the entries that it has, in the place of what was at `path`. A resumed run
  /// gives what it read, truncated to the step it goes on from.
  TrainingLogFile(std::filesystem::path path, TrainingLog log);
  ~TrainingLogFile();
  TrainingLogFile(const TrainingLogFile&) = delete;
  TrainingLogFile& operator=(const TrainingLogFile&) = delete;

  /// Steps and evaluations each come in order. Raises io where the line cannot be written.
  void add(const TrainingLog::Step& step);
  void add(const TrainingLog::Evaluation& evaluation);
  const TrainingLog& log() const { return log_; }

 private:
  void append(const std::string& line);
  std::filesystem::path path_;
  TrainingLog log_;
  int fd_ = -1;
};

}  // namespace hone
