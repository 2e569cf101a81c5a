// The launcher: makes a sandbox with its keeper, and runs programs in it.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sandbox/group.h"
#include "sandbox/protocol.h"

namespace codeshell::sandbox {

// A step that the kernel refused. Python turns it into a line with the remedy.
struct Refused : std::runtime_error {
  Refused(const std::string& name, int error_number, uint32_t at);
  std::string step;
  int error;
  uint32_t index;
};

// The name of a step in messages.
const char* step_name(Step step);

struct Bind {
  std::string host, inside;
  uint32_t flags = 0;
};

struct BoxOptions {
  int level = kNamespaces;
  std::vector<Bind> binds;
  uint64_t bytes = 0, inodes = 0;      // of the file system for the work
  uint64_t kept = 65536;               // bytes of each stream
  bool group = false;                  // level 4
  uint64_t memory = 0, processes = 0;  // of the group
  std::string folder;                  // of the host for the work, levels 1 and 2
  uint32_t landlock_abi = 0;
};

struct RunOptions {
  std::vector<std::string> arguments, environment, paths;
  std::string folder;
  double cpu_seconds = 0, wall_seconds = 0;
  uint64_t memory = 0, address_space = 0, file_bytes = 0, processes = 0, drained = 0;
  bool nested = false, keep_output = true, scoped = true;
  std::string input;
  std::vector<std::pair<int, int>> descriptors;  // ours, number inside
};

struct Outcome {
  int wait_status = 0;
  Cause cause = Cause::kEnded;
  std::string output, errors;  // the last bytes of each stream
  uint64_t output_bytes = 0;
  double cpu_seconds = 0, wall_seconds = 0;
  uint64_t peak_memory = 0;
  uint32_t killed = 0;
};

class Box {
 public:
  explicit Box(const BoxOptions& options);
  ~Box();
  Box(const Box&) = delete;
  Box& operator=(const Box&) = delete;

  void write(const std::vector<std::pair<std::string, std::string>>& files);
  void start(const RunOptions& options);
  // The outcome if the program ends within `seconds`.
  std::optional<Outcome> wait(double seconds);
  void kill(Cause cause);
  // Ends everything inside. Throws std::runtime_error if anything is left: a process, a group or a mount.
  void close();
  pid_t keeper() const { return keeper_; }

 private:
  struct Shared;
  void spawn(const BoxOptions& options, int setup, int control);
  std::optional<Message> hear(double seconds);
  Outcome collect(Cause cause);
  void release();

  int level_, control_ = -1, pidfd_ = -1;
  pid_t keeper_ = -1;
  uint64_t kept_;
  Report* report_ = nullptr;
  size_t report_size_ = 0;
  int report_fd_ = -1;
  std::unique_ptr<Group> group_;
  bool running_ = false, ended_ = false;
  double cpu_limit_ = 0;
  uint64_t group_before_ns_ = 0, kills_before_ = 0;
  double next_count_ = 0;
};

// The image of the keeper, as the build made it; empty on a processor for which there is none.
extern const unsigned char kKeeperImage[];
extern const unsigned long kKeeperSize;

// The ABI of Landlock that the kernel has; 0 without it.
int landlock_abi();

// Removes a folder with all that is in it, whatever a program left there; no link is followed.
bool remove_tree(const std::string& path);

}  // namespace codeshell::sandbox
