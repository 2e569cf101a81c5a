// What the launcher and the keeper say to each other: messages on a socket, requests in memory files, and one shared
// report. Both sides are ours and of the same build, so that structs travel as they are.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace codeshell::sandbox {

// The keeper's own descriptors; 0 to 2 are /dev/null.
constexpr int kControlFd = 3;
constexpr int kSetupFd = 4;
constexpr int kReportFd = 5;
constexpr int kKeeperFd = 6;

constexpr uint32_t kMostBinds = 96;
constexpr uint32_t kMostFds = 16;
constexpr uint32_t kMostStrings = 4096;

// Levels of isolation, as codeshell/evaluate/sandbox/levels.py has them.
constexpr int kLimits = 1;
constexpr int kLandlock = 2;
constexpr int kNamespaces = 3;

enum class Step : uint32_t {
  kNone,
  kStart,       // of the keeper itself
  kIdentity,    // becoming nobody
  kRoot,        // the private root
  kBind,        // `index` of the list
  kDevices,     //
  kProc,        //
  kWorkFolder,  //
  kPivot,       //
  kFiles,       // `index` of the list
  kLandlock,    // `index` of the list
  kDrop,        // capabilities, NO_NEW_PRIVS, limits
  kFilter,      // seccomp
  kFork,        //
  kExec,        //
};

// Launcher to keeper. A request's own data lies in a memory file that comes with the message.
enum class Ask : uint32_t { kRun = 1, kWrite, kKill };
// Keeper to launcher.
enum class Tell : uint32_t { kReady = 1, kWritten, kStarted, kEnded, kFailed };

enum class Cause : uint32_t { kEnded, kCpuTime, kWallTime, kMemory, kOutput, kKilled };

struct Message {
  uint32_t kind;
  Step step;
  int32_t error;   // errno of kFailed
  uint32_t index;  // of a bind or file
  Cause cause;     // of kKill
};

enum BindFlag : uint32_t {
  kWritable = 1,
  kDevice = 2,
  kLink = 4,      // `host` is the text of a symbolic link
  kText = 8,      // `host` is the content of a small file
  kOptional = 16  // nothing happens where `host` is absent
};

// Memory file of kSetupFd: this, then strings with a zero at their end: hostname; for each bind `host` and `inside`.
struct Setup {
  int32_t level;
  uint32_t uid, gid;       // inside; the map says what they are outside
  uint32_t change;         // whether root outside becomes them
  uint64_t bytes, inodes;  // of the file system for the work
  uint32_t landlock_abi;   // level 2
  uint32_t binds;
  uint32_t flags[kMostBinds];
  uint64_t kept;  // bytes of each stream in the report
};

// Memory file of kWrite: this, then for each file: name and zero, uint64 size, content.
struct Files {
  uint32_t count;
};

// Memory file of kRun: this, then strings: folder; arguments; environment; folders to look for argv[0] in; then the
// instructions of the filter, 8 bytes each.
struct Request {
  uint64_t cpu_us, wall_us;        // 0: without limit
  uint64_t memory, address_space;  // bytes; memory is watched by the keeper (0: not)
  uint64_t file_bytes, processes;  //
  uint64_t drained;                // bytes of both streams after which the program is killed
  uint64_t stack;                  // bytes
  uint32_t nested;                 // a program of ours that makes namespaces of its own: keeps capabilities
  uint32_t kept_output;            // whether the streams are drained into the report (else they came as descriptors)
  uint32_t processors;             //
  uint32_t arguments, environment, paths, instructions;
  uint32_t fds;               // that came with the message; the first is stdin
  int32_t targets[kMostFds];  // their numbers inside
};

// One stream: `total` bytes came, the last min(total, kept) are at [total - that, total) modulo kept.
struct Stream {
  uint64_t total;
};

// The shared report; two rings of `kept` bytes follow.
struct Report {
  int32_t wait_status;
  Cause cause;
  uint64_t cpu_us, keeper_us, wall_us;
  uint64_t peak_memory;  // bytes, of one process
  uint32_t killed;       // processes that were still there when the first one ended
  uint32_t left;         // that could not be killed: always 0
  int32_t pid;           // of the first process as the keeper sees it
  Stream streams[2];
};

}  // namespace codeshell::sandbox
