// A small HTTP server for tests, which can also behave badly: a thread for each connection, one
// request a connection.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace hone::testing {

struct ServerRequest {
  std::string method, path;
  std::map<std::string, std::string> headers;  // names in lower case
  int64_t from = 0;                            // of Range: bytes=N-
  bool has(const std::string& name) const { return headers.contains(name); }
};

struct ServerAnswer {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  int64_t length = -1;       // Content-Length, where it is not the body's; −2: none is sent
  int64_t cut_at = -1;       // the connection ends behind so many bytes of the body
  double wait_seconds = 0;   // before the head
  double stall_seconds = 0;  // in the middle of the body
};

class Server {
 public:
  using Handler = std::function<ServerAnswer(const ServerRequest&)>;

  explicit Server(Handler handler) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* a = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_, a, size) != 0 || ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, a, &size) != 0)
      throw std::runtime_error("no port to listen on");
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { accept(); });
  }
  ~Server() {
    stop_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (std::thread& t : serving_) t.join();
    ::close(listener_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Another `host` that means this machine is another origin.
  std::string url(const std::string& host = "127.0.0.1") const {
    return "http://" + host + ":" + std::to_string(port_);
  }
  std::vector<ServerRequest> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }
  int count(const std::string& method, const std::string& part = "") const {
    int n = 0;
    for (const ServerRequest& r : requests())
      n += r.method == method && r.path.find(part) != std::string::npos;
    return n;
  }

 private:
  void accept() {
    while (!stop_) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      serving_.emplace_back([this, fd] {
        serve(fd);
        ::shutdown(fd, SHUT_WR);
        char rest[256];  // a close with unread bytes would reset what was sent
        timeval soon{0, 200000};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon));
        while (!stop_ && ::recv(fd, rest, sizeof(rest), 0) > 0) {
        }
        ::close(fd);
      });
    }
  }

  static bool read_head(int fd, std::string& head) {
    char chunk[4096];
    while (head.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = ::recv(fd, chunk, sizeof(chunk), 0);
      if (n <= 0) return false;
      head.append(chunk, static_cast<size_t>(n));
    }
    return true;
  }

  static ServerRequest parse(const std::string& head) {
    ServerRequest r;
    size_t at = head.find(' ');
    r.method = head.substr(0, at);
    r.path = head.substr(at + 1, head.find(' ', at + 1) - at - 1);
    for (at = head.find("\r\n") + 2; head.compare(at, 2, "\r\n") != 0;) {
      const size_t end = head.find("\r\n", at), colon = head.find(": ", at);
      std::string name = head.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      r.headers[name] = head.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    if (r.has("range")) r.from = std::atoll(r.headers["range"].c_str() + 6);
    return r;
  }

  void send(int fd, const char* data, size_t size) const {
    while (size > 0 && !stop_) {
      const ssize_t n = ::send(fd, data, size, MSG_NOSIGNAL);
      if (n <= 0) return;
      data += n;
      size -= static_cast<size_t>(n);
    }
  }
  void sleep(double seconds) const {
    for (double t = 0; t < seconds && !stop_; t += 0.01)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  void serve(int fd) {
    std::string head;
    if (!read_head(fd, head)) return;
    const ServerRequest request = parse(head);
    {
      std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const ServerAnswer a = handler_(request);
    sleep(a.wait_seconds);
    std::string out = "HTTP/1.1 " + std::to_string(a.status) + " X\r\nConnection: close\r\n";
    for (const auto& [name, value] : a.headers) out += name + ": " + value + "\r\n";
    const int64_t length = a.length == -1 ? std::ssize(a.body) : a.length;
    if (length >= 0) out += "Content-Length: " + std::to_string(length) + "\r\n";
    out += "\r\n";
    send(fd, out.data(), out.size());
    if (request.method == "HEAD") return;
    const size_t size = a.cut_at < 0 ? a.body.size() : static_cast<size_t>(a.cut_at);
    send(fd, a.body.data(), size / 2);
    sleep(a.stall_seconds);
    send(fd, a.body.data() + size / 2, size - size / 2);
  }

  Handler handler_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::vector<ServerRequest> requests_;
  std::vector<std::thread> serving_;
  std::thread accepting_;
};

}  // namespace hone::testing
