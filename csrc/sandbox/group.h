// A control group for one sandbox: memory and number of processes as a whole, and CPU time that nothing escapes.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

namespace codeshell::sandbox {

// Where groups can be made: below the group of this process, so that limits around it stay.
struct Groups {
  int version = 0;       // 0: none can be had
  std::string memory;    // folders of the parent group; all three the same with version 2
  std::string pids;      //
  std::string cpu;       // empty: CPU time is not counted by groups
  std::string obstacle;  // why there are none
};

// Looks once for each process, by making a group and removing it. Version 2 needs a delegated subtree; a process that is
// alone in it moves itself into a leaf, "codeshell-main", because a group with members may not have limited children.
const Groups& find_groups();

class Group {
 public:
  // Null if there are none, or this one cannot be made.
  static std::unique_ptr<Group> make(uint64_t memory, uint64_t processes);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  bool add(pid_t pid);
  // Nanoseconds of all that was ever in the group; 0 where not counted.
  uint64_t cpu_ns() const;
  // How often the kernel killed for memory.
  uint64_t kills() const;
  uint64_t peak() const;
  // Removes the group; false while something is in it.
  bool remove();

 private:
  Group() = default;
  std::string memory_, pids_, cpu_;
  int version_ = 0;
  bool there_ = true;
};

// Removes groups that processes left that were killed: those whose name holds the pid of no process.
void sweep_groups();

}  // namespace codeshell::sandbox
