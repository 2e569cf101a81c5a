// Control groups of version 1 (one hierarchy for each resource) and of version 2 (one for all).
#include "sandbox/group.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <sstream>

namespace codeshell::sandbox {

namespace {

constexpr const char* kPrefix = "codeshell-";
constexpr const char* kLeaf = "codeshell-main";

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool write_text(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  close(file);
  errno = error;
  return written;
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

uint64_t number_of(const std::string& path) {
  const std::string text = read_text(path);
  return strtoull(text.c_str(), nullptr, 10);
}

// The number after `key` in lines of "key number".
uint64_t entry_of(const std::string& path, const std::string& key) {
  std::istringstream lines(read_text(path));
  std::string name;
  uint64_t number = 0;
  while (lines >> name >> number) {
    if (name == key) return number;
  }
  return 0;
}

// The words of `text` between separators.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// The folder of this process's group in the hierarchy with `controller` (version 1), or in version 2 (empty name).
std::string own_folder(const std::string& controller) {
  std::string path;
  for (const std::string& line : split(read_text("/proc/self/cgroup"), '\n')) {
    // "9:memory:/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    bool found = controller.empty() && names.empty();
    for (const std::string& name : split(names, ',')) found |= !controller.empty() && name == controller;
    if (found) path = line.substr(second + 1);
  }
  if (path.empty()) return "";
  for (const std::string& line : split(read_text("/proc/self/mountinfo"), '\n')) {
    // "id parent device root mountpoint options … - type source superoptions"
    const std::vector<std::string> fields = split(line, ' ');
    size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 3 >= fields.size()) continue;
    bool found = controller.empty() && fields[dash + 1] == "cgroup2";
    if (!controller.empty() && fields[dash + 1] == "cgroup") {
      for (const std::string& name : split(fields[dash + 3], ',')) found |= name == controller;
    }
    if (!found) continue;
    const std::string& root = fields[3];
    if (root != "/") {
      if (path.compare(0, root.size(), root) != 0) continue;
      path = path.substr(root.size());
    }
    return fields[4] + (path == "/" ? "" : path);
  }
  return "";
}

// Makes a folder below `parent` and removes it again; the errno, or 0.
int try_folder(const std::string& parent) {
  const std::string name = parent + "/" + kPrefix + std::to_string(getpid()) + "-try";
  if (mkdir(name.c_str(), 0755) != 0) return errno;
  const bool limited = exists(name + "/memory.max") || exists(name + "/memory.limit_in_bytes") ||
                       exists(name + "/pids.max") || exists(name + "/cpuacct.usage");
  rmdir(name.c_str());
  return limited ? 0 : ENOTSUP;
}

// Version 2: the folder below which limited groups can be made, or empty.
std::string delegated(std::string* obstacle) {
  std::string own = own_folder("");
  if (own.empty()) {
    *obstacle = "no control groups are mounted";
    return "";
  }
  const std::string leaf = std::string("/") + kLeaf;
  if (own.size() > leaf.size() && own.compare(own.size() - leaf.size(), leaf.size(), leaf) == 0) {
    own.resize(own.size() - leaf.size());
  }
  if (read_text(own + "/cgroup.controllers").find("memory") == std::string::npos) {
    *obstacle = "the memory controller is not delegated to " + own;
    return "";
  }
  const std::string active = read_text(own + "/cgroup.subtree_control");
  if (active.find("memory") != std::string::npos && active.find("pids") != std::string::npos) return own;
  // Only if nobody else is in the group: this process moves into a leaf below it.
  if (read_text(own + "/cgroup.procs") != std::to_string(getpid()) + "\n") {
    *obstacle = "other processes are in the group " + own;
    return "";
  }
  if (mkdir((own + leaf).c_str(), 0755) != 0 && errno != EEXIST) {
    *obstacle = own + " is not delegated: " + strerror(errno);
    return "";
  }
  if (!write_text(own + leaf + "/cgroup.procs", std::to_string(getpid()))) {
    *obstacle = own + " is not delegated: " + strerror(errno);
    rmdir((own + leaf).c_str());
    return "";
  }
  if (!write_text(own + "/cgroup.subtree_control", "+memory +pids")) {
    *obstacle = own + ": its controllers cannot be passed on: " + strerror(errno);
    write_text(own + "/cgroup.procs", std::to_string(getpid()));
    rmdir((own + leaf).c_str());
    return "";
  }
  return own;
}

Groups look() {
  Groups groups;
  const std::string memory = own_folder("memory"), pids = own_folder("pids"), cpu = own_folder("cpuacct");
  if (!memory.empty() && !pids.empty()) {
    for (const std::string& folder : {memory, pids}) {
      if (const int error = try_folder(folder)) {
        groups.obstacle = "no group can be made in " + folder + ": " + strerror(error);
        return groups;
      }
    }
    groups.version = 1;
    groups.memory = memory;
    groups.pids = pids;
    if (!cpu.empty() && try_folder(cpu) == 0) groups.cpu = cpu;
    return groups;
  }
  const std::string folder = delegated(&groups.obstacle);
  if (folder.empty()) return groups;
  if (const int error = try_folder(folder)) {
    groups.obstacle = "no group can be made in " + folder + ": " + strerror(error);
    return groups;
  }
  groups.version = 2;
  groups.memory = groups.pids = groups.cpu = folder;
  return groups;
}

std::vector<std::string> folders_of(const Groups& groups) {
  if (groups.version == 0) return {};
  std::vector<std::string> folders = {groups.memory};
  for (const std::string& folder : {groups.pids, groups.cpu}) {
    if (!folder.empty() && folder != folders.back()) folders.push_back(folder);
  }
  return folders;
}

}  // namespace

const Groups& find_groups() {
  static std::mutex mutex;
  static Groups groups;
  static pid_t found_by = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  // A fork may be in another group than its parent.
  if (found_by != getpid()) {
    groups = look();
    found_by = getpid();
    if (groups.version) sweep_groups();
  }
  return groups;
}

std::unique_ptr<Group> Group::make(uint64_t memory, uint64_t processes) {
  static std::atomic<uint64_t> count{0};
  const Groups& groups = find_groups();
  if (groups.version == 0) return nullptr;
  std::string name("/");
  name.append(kPrefix).append(std::to_string(getpid())).append("-").append(std::to_string(count++));
  std::unique_ptr<Group> group(new Group);
  group->version_ = groups.version;
  group->memory_ = groups.memory + name;
  group->pids_ = groups.pids + name;
  if (!groups.cpu.empty()) group->cpu_ = groups.cpu + name;
  bool good = true;
  for (const std::string& folder : folders_of(groups)) good &= mkdir((folder + name).c_str(), 0755) == 0;
  const std::string bytes = std::to_string(memory);
  if (groups.version == 1) {
    if (memory) {
      good = good && write_text(group->memory_ + "/memory.limit_in_bytes", bytes);
      // Absent where the kernel does not count swap.
      if (good) write_text(group->memory_ + "/memory.memsw.limit_in_bytes", bytes);
    }
  } else {
    if (memory) good = good && write_text(group->memory_ + "/memory.max", bytes);
    if (good) write_text(group->memory_ + "/memory.swap.max", "0");
  }
  if (processes) good = good && write_text(group->pids_ + "/pids.max", std::to_string(processes));
  if (!good) {
    group->remove();
    return nullptr;
  }
  return group;
}

Group::~Group() { remove(); }

bool Group::add(pid_t pid) {
  const std::string text = std::to_string(pid);
  bool good = write_text(memory_ + "/cgroup.procs", text);
  if (pids_ != memory_) good = good && write_text(pids_ + "/cgroup.procs", text);
  if (!cpu_.empty() && cpu_ != memory_) good = good && write_text(cpu_ + "/cgroup.procs", text);
  return good;
}

uint64_t Group::cpu_ns() const {
  if (cpu_.empty()) return 0;
  return version_ == 1 ? number_of(cpu_ + "/cpuacct.usage") : entry_of(cpu_ + "/cpu.stat", "usage_usec") * 1000;
}

uint64_t Group::kills() const {
  return entry_of(memory_ + (version_ == 1 ? "/memory.oom_control" : "/memory.events"), "oom_kill");
}

uint64_t Group::peak() const {
  return number_of(memory_ + (version_ == 1 ? "/memory.max_usage_in_bytes" : "/memory.peak"));
}

bool Group::remove() {
  if (!there_) return true;
  bool gone = true;
  for (const std::string& folder : {memory_, pids_, cpu_}) {
    if (folder.empty()) continue;
    // A process that was just waited for may be in its group for some microseconds more.
    bool removed = false;
    for (int attempt = 0; attempt < 200 && !removed; ++attempt) {
      removed = rmdir(folder.c_str()) == 0 || errno == ENOENT;
      if (!removed && errno != EBUSY) break;
      if (!removed) usleep(500);
    }
    gone &= removed;
  }
  there_ = !gone;
  return gone;
}

void sweep_groups() {
  static const std::string prefix = kPrefix;
  const Groups groups = [] {
    Groups found;
    found.memory = own_folder("memory");
    found.pids = own_folder("pids");
    found.cpu = own_folder("cpuacct");
    found.version = 1;
    if (found.memory.empty()) {
      std::string ignored;
      found.memory = found.pids = found.cpu = delegated(&ignored);
      found.version = found.memory.empty() ? 0 : 2;
    }
    return found;
  }();
  for (const std::string& folder : folders_of(groups)) {
    DIR* entries = opendir(folder.c_str());
    if (!entries) continue;
    std::vector<std::string> stale;
    while (const dirent* entry = readdir(entries)) {
      const std::string name = entry->d_name;
      if (name.compare(0, prefix.size(), prefix) != 0) continue;
      const long pid = strtol(name.c_str() + prefix.size(), nullptr, 10);
      if (pid > 0 && kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) stale.push_back(name);
    }
    closedir(entries);
    for (const std::string& name : stale) rmdir((folder + "/" + name).c_str());
  }
}

}  // namespace codeshell::sandbox
