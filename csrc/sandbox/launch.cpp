// Starts the keeper in new namespaces, and talks with it.
//
// Between clone and exec the child shares the memory of this process, as posix_spawn does it: nothing is copied, however
// large the process is. It therefore makes system calls only, on a stack of its own, with all signals blocked.
#include "sandbox/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "sandbox/filter.h"
#include "sandbox/syscalls.h"

namespace codeshell::sandbox {

namespace {

constexpr uint32_t kInside = 65534;  // nobody, inside and, for root, outside
constexpr size_t kStack = 65536;

// Closes what it holds.
struct Fd {
  int fd = -1;
  explicit Fd(int given = -1) : fd(given) {}
  ~Fd() { reset(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  void reset() {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
};

double now() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// A request's memory file.
class Packer {
 public:
  void raw(const void* data, size_t size) { data_.append(static_cast<const char*>(data), size); }
  void string(const std::string& text) {
    if (text.find('\0') != std::string::npos)
      throw std::invalid_argument("a zero byte in a path, argument or variable");
    data_.append(text.c_str(), text.size() + 1);
  }
  int file(const char* name) const {
    const int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) throw Refused("start", errno, 0);
    size_t done = 0;
    while (done < data_.size()) {
      const ssize_t written = ::write(fd, data_.data() + done, data_.size() - done);
      if (written <= 0) {
        const int error = errno;
        ::close(fd);
        throw Refused("start", error, 0);
      }
      done += static_cast<size_t>(written);
    }
    return fd;
  }

 private:
  std::string data_;
};

// The keeper as a file without a name, once for each process.
int keeper_image() {
  static const int image = [] {
    if (kKeeperSize == 0) return -ENOEXEC;
    constexpr unsigned kExecutable = 0x10;  // MFD_EXEC, of Linux 6.3; older kernels do not know it
    int fd = memfd_create("codeshell-keeper", MFD_CLOEXEC | MFD_ALLOW_SEALING | kExecutable);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("codeshell-keeper", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    if (::write(fd, kKeeperImage, kKeeperSize) != static_cast<ssize_t>(kKeeperSize)) return -EIO;
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    // Opened again for reading: a file that is open for writing cannot be executed.
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const int again = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const int error = errno;
    ::close(fd);
    return again < 0 ? -error : again;
  }();
  return image;
}

bool write_text(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool good = ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  ::close(file);
  errno = error;
  return good;
}

// Whether a user or group of this number exists here: not in a container with few of them.
bool is_mapped(const char* path, uint64_t id) {
  std::ifstream file(path);
  uint64_t inside = 0, outside = 0, count = 0;
  while (file >> inside >> outside >> count) {
    if (id >= inside && id - inside < count) return true;
  }
  return false;
}

// Root outside becomes nobody outside, if there is a nobody.
bool is_changing() {
  return geteuid() == 0 && is_mapped("/proc/self/uid_map", kInside) && is_mapped("/proc/self/gid_map", kInside);
}

// What the child reads between clone and exec.
struct Child {
  int gate, gate_write, control, setup, report, image, null;
  bool namespaced;
  long error;
  const char* arguments[2];
  const char* environment[1];
};

// The child until exec: no library, no allocation. What it returns is its exit status.
int become_keeper(void* data) {
  auto* child = static_cast<Child*>(data);
  using sys::call;
  using sys::of;
  char go = 0;
  // Its own copy of the other end: otherwise it would wait for itself where the launcher gives up.
  sys::close(child->gate_write);
  if (sys::read(child->gate, &go, 1) != 1) return 1;
  if (child->namespaced) {
    // Its user may not exist in the namespace, so that exec would take the capabilities that it has there.
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct capabilities[2] = {};
    call(__NR_capget, of(&header), of(capabilities));
    for (auto& half : capabilities) half.inheritable = half.permitted;
    call(__NR_capset, of(&header), of(capabilities));
    for (long bit = 0; bit < 64; ++bit) {
      if (capabilities[bit / 32].permitted >> (bit % 32) & 1) {
        call(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0);
      }
    }
  }
  call(__NR_setsid);
  // Above all targets first; then each to its number.
  const int sources[] = {child->null,  child->null,   child->null, child->control,
                         child->setup, child->report, child->image};
  long moved[7];
  for (int i = 0; i < 7; ++i) {
    moved[i] = call(__NR_fcntl, sources[i], F_DUPFD_CLOEXEC, 16);
    if (moved[i] < 0) {
      child->error = -moved[i];
      return 1;
    }
  }
  for (int i = 0; i < 7; ++i) call(__NR_dup3, moved[i], i, i == kKeeperFd ? O_CLOEXEC : 0);
  call(__NR_close_range, kKeeperFd + 1, ~0u, 0);
  child->error = -call(__NR_execveat, kKeeperFd, of(""), of(child->arguments), of(child->environment), AT_EMPTY_PATH);
  return 1;
}

}  // namespace

const char* step_name(Step step) {
  switch (step) {
    case Step::kNone: return "none";
    case Step::kStart: return "start";
    case Step::kIdentity: return "identity";
    case Step::kRoot: return "root";
    case Step::kBind: return "bind";
    case Step::kDevices: return "devices";
    case Step::kProc: return "proc";
    case Step::kWorkFolder: return "work";
    case Step::kPivot: return "pivot";
    case Step::kFiles: return "files";
    case Step::kLandlock: return "landlock";
    case Step::kDrop: return "drop";
    case Step::kFilter: return "filter";
    case Step::kFork: return "fork";
    case Step::kExec: return "exec";
  }
  return "unknown";
}

Refused::Refused(const std::string& name, int error_number, uint32_t at)
    : std::runtime_error(name + ":" + std::to_string(error_number) + ":" + std::to_string(at)),
      step(name),
      error(error_number),
      index(at) {}

int landlock_abi() {
  const long version = syscall(444, nullptr, 0, 1);  // landlock_create_ruleset(…, LANDLOCK_CREATE_RULESET_VERSION)
  return version < 0 ? 0 : static_cast<int>(version);
}

Box::Box(const BoxOptions& options) : level_(options.level), kept_(std::max<uint64_t>(options.kept, 1)) {
  if (options.binds.size() > kMostBinds) throw std::invalid_argument("too many binds");
  Setup setup = {};
  setup.level = options.level >= kNamespaces ? kNamespaces : options.level;
  setup.uid = setup.gid = kInside;
  setup.change = is_changing();
  setup.bytes = options.bytes;
  setup.inodes = options.inodes;
  setup.landlock_abi = options.landlock_abi;
  setup.binds = static_cast<uint32_t>(options.binds.size());
  setup.kept = kept_;
  for (uint32_t i = 0; i < setup.binds; ++i) setup.flags[i] = options.binds[i].flags;
  Packer pack;
  pack.raw(&setup, sizeof setup);
  pack.string("codeshell");
  pack.string(options.folder);
  for (const Bind& bind : options.binds) {
    pack.string(bind.host);
    pack.string(bind.inside);
  }
  const Fd file(pack.file("codeshell-setup"));
  report_size_ = sizeof(Report) + 2 * kept_;
  report_fd_ = memfd_create("codeshell-report", MFD_CLOEXEC);
  if (report_fd_ < 0 || ftruncate(report_fd_, static_cast<off_t>(report_size_)) != 0) throw Refused("start", errno, 0);
  void* mapped = mmap(nullptr, report_size_, PROT_READ | PROT_WRITE, MAP_SHARED, report_fd_, 0);
  if (mapped == MAP_FAILED) throw Refused("start", errno, 0);
  report_ = static_cast<Report*>(mapped);
  if (options.group) {
    group_ = Group::make(options.memory, options.processes);
    if (!group_) throw Refused("group", errno, 0);
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) throw Refused("start", errno, 0);
  control_ = ends[0];
  try {
    spawn(options, file.fd, ends[1]);
  } catch (...) {
    release();
    throw;
  }
}

void Box::spawn(const BoxOptions& options, int setup, int control) {
  Fd control_end(control);
  const int image = keeper_image();
  if (image < 0) throw Refused("start", -image, 0);
  int gate[2];
  if (pipe2(gate, O_CLOEXEC) != 0) throw Refused("start", errno, 0);
  Fd gate_read(gate[0]), gate_write(gate[1]);
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) throw Refused("start", errno, 0);
  const bool namespaced = options.level >= kNamespaces;
  Child child = {gate_read.fd, gate_write.fd, control,    setup, report_fd_,
                 image,        null.fd,       namespaced, 0,     {"codeshell-keeper", nullptr},
                 {nullptr}};
  // Without a signal at its end it is no child that another part of this process could wait for by chance.
  int flags = CLONE_VM | CLONE_PIDFD;
  if (namespaced) flags |= CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = clone(become_keeper, static_cast<char*>(stack) + kStack, flags, &child, &pidfd_);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  control_end.reset();
  gate_read.reset();
  if (pid < 0) {
    munmap(stack, kStack);
    throw Refused("namespaces", error, 0);
  }
  keeper_ = pid;
  fcntl(pidfd_, F_SETFD, FD_CLOEXEC);
  const char* step = nullptr;
  int refused = 0;
  if (namespaced) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const bool changing = is_changing();
    const std::string uid = std::to_string(kInside) + " " + std::to_string(changing ? kInside : geteuid()) + " 1";
    const std::string gid = std::to_string(kInside) + " " + std::to_string(changing ? kInside : getegid()) + " 1";
    if ((!changing && !write_text(folder + "/setgroups", "deny")) || !write_text(folder + "/uid_map", uid) ||
        !write_text(folder + "/gid_map", gid)) {
      step = "map";
      refused = errno;
    }
  }
  if (!step && group_ && !group_->add(pid)) {
    step = "group";
    refused = errno;
  }
  if (!step && ::write(gate_write.fd, "g", 1) != 1) {
    step = "start";
    refused = errno;
  }
  gate_write.reset();
  // Ready, or the end of the socket: then the child no longer uses the stack.
  const std::optional<Message> answer = step ? std::nullopt : hear(60);
  if (!answer) {
    syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);
    siginfo_t info;
    waitid(static_cast<idtype_t>(3), static_cast<id_t>(pidfd_), &info, WEXITED | __WALL);  // P_PIDFD
  }
  munmap(stack, kStack);
  if (step) throw Refused(step, refused, 0);
  if (!answer) throw Refused("start", child.error ? static_cast<int>(child.error) : EPIPE, 0);
  if (answer->kind == static_cast<uint32_t>(Tell::kFailed))
    throw Refused(step_name(answer->step), answer->error, answer->index);
}

Box::~Box() {
  try {
    close();
  } catch (...) {
    // close() said it to whoever called it; a destructor cannot.
  }
}

void Box::release() {
  if (control_ >= 0) ::close(control_);
  control_ = -1;
  if (pidfd_ >= 0) {
    // The keeper ends by itself now. What does not is killed; as pid 1 it takes everything inside with it.
    pollfd end = {pidfd_, POLLIN, 0};
    if (poll(&end, 1, 10000) == 0) syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);
    siginfo_t info;
    while (waitid(static_cast<idtype_t>(3), static_cast<id_t>(pidfd_), &info, WEXITED | __WALL) != 0 &&
           errno == EINTR) {
    }
    ::close(pidfd_);
    pidfd_ = -1;
  }
  if (report_) munmap(report_, report_size_);
  report_ = nullptr;
  if (report_fd_ >= 0) ::close(report_fd_);
  report_fd_ = -1;
}

void Box::close() {
  if (ended_) return;
  ended_ = true;
  const bool left = report_ && report_->left;
  release();
  // The keeper was waited for, and as pid 1 it ends after everything in its namespace, which takes the mounts with it.
  // The group must be empty, which its removal proves. No mount may have come out.
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" codeshell ") != std::string::npos) throw std::runtime_error("the sandbox left a mount");
  }
  if (group_ && !group_->remove()) throw std::runtime_error("the sandbox left a process in its group");
  if (left) throw std::runtime_error("the sandbox left a process");
}

std::optional<Message> Box::hear(double seconds) {
  const double deadline = now() + seconds;
  for (;;) {
    pollfd ready = {control_, POLLIN, 0};
    const double wait = std::max(0.0, deadline - now());
    const int count = poll(&ready, 1, static_cast<int>(std::min(wait * 1000 + 0.999, 1e8)));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) return std::nullopt;
    Message message = {};
    const ssize_t size = recv(control_, &message, sizeof message, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size != static_cast<ssize_t>(sizeof message)) {
      message = {};
      return std::nullopt;
    }
    return message;
  }
}

namespace {

void send(int control, const Message& message, const std::vector<int>& fds) {
  iovec part = {const_cast<Message*>(&message), sizeof message};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int) * (kMostFds + 1))] = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = space;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* control_message = CMSG_FIRSTHDR(&header);
    control_message->cmsg_level = SOL_SOCKET;
    control_message->cmsg_type = SCM_RIGHTS;
    control_message->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    memcpy(CMSG_DATA(control_message), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t sent;
  do {
    sent = sendmsg(control, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) throw Refused("keeper", errno, 0);
}

}  // namespace

void Box::write(const std::vector<std::pair<std::string, std::string>>& files) {
  if (files.empty()) return;
  Packer pack;
  const Files head = {static_cast<uint32_t>(files.size())};
  pack.raw(&head, sizeof head);
  for (const auto& [name, data] : files) {
    pack.string(name);
    const uint64_t size = data.size();
    pack.raw(&size, sizeof size);
    pack.raw(data.data(), data.size());
  }
  const Fd file(pack.file("codeshell-files"));
  send(control_, {static_cast<uint32_t>(Ask::kWrite), Step::kNone, 0, 0, Cause::kEnded}, {file.fd});
  const std::optional<Message> answer = hear(600);
  if (!answer) throw Refused("keeper", EPIPE, 0);
  if (answer->kind == static_cast<uint32_t>(Tell::kFailed))
    throw Refused(step_name(answer->step), answer->error, answer->index);
}

void Box::start(const RunOptions& options) {
  if (running_) throw std::logic_error("a program is running in this box");
  const bool kept = options.keep_output;
  const size_t fds = 1 + (kept ? 0 : 2) + options.descriptors.size();
  if (fds + 2 > kMostFds) throw std::invalid_argument("too many descriptors");
  Request request = {};
  request.cpu_us = static_cast<uint64_t>(std::llround(options.cpu_seconds * 1e6));
  request.wall_us = static_cast<uint64_t>(std::llround(options.wall_seconds * 1e6));
  request.memory = group_ ? 0 : options.memory;
  request.address_space = options.address_space;
  request.file_bytes = options.file_bytes;
  request.processes = options.processes;
  request.drained = options.drained;
  request.stack = 16 << 20;
  request.nested = options.nested;
  request.kept_output = kept;
  request.processors = static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  request.arguments = static_cast<uint32_t>(options.arguments.size());
  request.environment = static_cast<uint32_t>(options.environment.size());
  request.paths = static_cast<uint32_t>(options.paths.size());
  if (options.arguments.empty()) throw std::invalid_argument("argv: is empty");
  if (options.arguments.size() + options.environment.size() + options.paths.size() > kMostStrings) {
    throw std::invalid_argument("argv, environment: more than 4,096 strings");
  }
  const Filter kind = options.nested ? Filter::kNested : level_ >= kNamespaces ? Filter::kStrict : Filter::kShared;
  // Level 1 promises limits alone, and works where filters cannot be had.
  const std::vector<sock_filter> filter =
      level_ == kLimits ? std::vector<sock_filter>() : make_filter(kind, options.scoped);
  request.instructions = static_cast<uint32_t>(filter.size());

  // Standard input is a memory file, so that no program can make the launcher wait.
  Fd input;
  if (options.input.empty()) {
    input.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  } else {
    Packer text;
    text.raw(options.input.data(), options.input.size());
    input.fd = text.file("input");
    lseek(input.fd, 0, SEEK_SET);
    fcntl(input.fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);
  }
  const Fd null(kept ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC));
  std::vector<int> ours = {-1, input.fd};
  request.targets[request.fds++] = 0;
  if (!kept) {
    for (const int target : {1, 2}) {
      ours.push_back(null.fd);
      request.targets[request.fds++] = target;
    }
  }
  for (const auto& [fd, target] : options.descriptors) {
    if (target < 3 || target >= 512) throw std::invalid_argument("pass_fds: numbers must be 3 to 511");
    ours.push_back(fd);
    request.targets[request.fds++] = target;
  }
  Packer pack;
  pack.raw(&request, sizeof request);
  pack.string(options.folder);
  for (const auto* list : {&options.arguments, &options.environment, &options.paths}) {
    for (const std::string& text : *list) pack.string(text);
  }
  pack.raw(filter.data(), filter.size() * sizeof(sock_filter));
  const Fd file(pack.file("codeshell-request"));
  ours[0] = file.fd;
  cpu_limit_ = options.cpu_seconds;
  if (group_) {
    group_before_ns_ = group_->cpu_ns() - std::min(group_->cpu_ns(), report_->keeper_us * 1000);
    kills_before_ = group_->kills();
  }
  report_->cause = Cause::kEnded;
  next_count_ = now() + std::max(0.05, cpu_limit_ / request.processors);
  send(control_, {static_cast<uint32_t>(Ask::kRun), Step::kNone, 0, 0, Cause::kEnded}, ours);
  running_ = true;
}

std::optional<Outcome> Box::wait(double seconds) {
  if (!running_) throw std::logic_error("no program is running in this box");
  const double deadline = now() + seconds;
  for (;;) {
    const double time = now();
    double until = deadline;
    // The group counts the time of children that nobody waits for, too, which the keeper cannot see.
    const bool counting = group_ && cpu_limit_ > 0;
    if (counting) until = std::min(until, std::max(next_count_, time));
    const std::optional<Message> answer = hear(std::max(0.0, until - time));
    if (answer) {
      running_ = false;
      if (answer->kind == static_cast<uint32_t>(Tell::kFailed)) {
        throw Refused(step_name(answer->step), answer->error, answer->index);
      }
      return collect(report_->cause);
    }
    // Silence, or the end of the keeper: the kernel may have killed it for memory.
    pollfd end = {pidfd_, POLLIN, 0};
    if (poll(&end, 1, 0) == 1) {
      running_ = false;
      if (group_ && group_->kills() > kills_before_) {
        report_->wait_status = SIGKILL;
        return collect(Cause::kMemory);
      }
      throw Refused("keeper", EPIPE, 0);
    }
    if (counting && now() >= next_count_) {
      const double used = static_cast<double>(group_->cpu_ns() - std::min(group_->cpu_ns(), group_before_ns_)) * 1e-9;
      if (used > cpu_limit_ + 0.1) kill(Cause::kCpuTime);
      next_count_ = now() + std::max(0.05, (cpu_limit_ - used) / static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN)));
    }
    if (now() >= deadline) return std::nullopt;
  }
}

void Box::kill(Cause cause) {
  if (running_) send(control_, {static_cast<uint32_t>(Ask::kKill), Step::kNone, 0, 0, cause}, {});
}

Outcome Box::collect(Cause cause) {
  Outcome outcome;
  outcome.wait_status = report_->wait_status;
  outcome.cause = cause;
  outcome.cpu_seconds = static_cast<double>(report_->cpu_us) * 1e-6;
  outcome.wall_seconds = static_cast<double>(report_->wall_us) * 1e-6;
  outcome.peak_memory = report_->peak_memory;
  outcome.killed = report_->killed;
  const char* rings = reinterpret_cast<const char*>(report_) + sizeof(Report);
  std::string* streams[2] = {&outcome.output, &outcome.errors};
  for (int stream = 0; stream < 2; ++stream) {
    const uint64_t total = report_->streams[stream].total;
    const char* ring = rings + static_cast<uint64_t>(stream) * kept_;
    outcome.output_bytes += total;
    if (total <= kept_) {
      streams[stream]->assign(ring, total);
    } else {
      const uint64_t at = total % kept_;
      streams[stream]->assign(ring + at, kept_ - at);
      streams[stream]->append(ring, at);
    }
  }
  if (group_) {
    if (group_->kills() > kills_before_ && cause == Cause::kEnded) outcome.cause = Cause::kMemory;
    outcome.peak_memory = std::max(outcome.peak_memory, group_->peak());
    const uint64_t all = group_->cpu_ns() - std::min(group_->cpu_ns(), report_->keeper_us * 1000);
    const double counted = static_cast<double>(all - std::min(all, group_before_ns_)) * 1e-9;
    // Only a difference that the start of the keeper does not explain.
    if (counted > outcome.cpu_seconds + 0.1) outcome.cpu_seconds = counted;
    if (cpu_limit_ > 0 && outcome.cpu_seconds > cpu_limit_ && outcome.cause == Cause::kEnded) {
      outcome.cause = Cause::kCpuTime;
    }
  }
  return outcome;
}

}  // namespace codeshell::sandbox
