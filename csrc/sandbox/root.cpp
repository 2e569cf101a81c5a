// The private root: a small read-only tmpfs with read-only binds, five devices, a fresh /proc, and one limited tmpfs
// that is seen as /box, /tmp and /dev/shm. Part of the keeper, which runs it as pid 1 of its namespaces.
#include "sandbox/root.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>

#include <initializer_list>

#include "sandbox/syscalls.h"

namespace codeshell::sandbox {

namespace {

using sys::of;

// From <sys/mount.h>, which does not go with <linux/mount.h> everywhere.
constexpr long kNoSuid = 2, kNoDev = 4, kNoExec = 8, kBind = 4096, kRec = 16384, kPrivate = 1 << 18;
constexpr long kDetach = 2;
constexpr long kEmptyPath = 0x1000, kRecursive = 0x8000;

Failure failed(Step step, long result, uint32_t index = 0) { return {step, -result, index}; }

long mount(const char* source, const char* target, const char* type, long flags, const char* data) {
  return sys::call(__NR_mount, of(source), of(target), of(type), flags, of(data));
}

long make_folder(const char* path) { return sys::call(__NR_mkdirat, AT_FDCWD, of(path), 0755); }

// Makes the folders above the last name of a path that begins with a slash, in the working folder.
void make_parents(const char* path) {
  Line<4096> part;
  for (const char* at = path + 1; *at; ++at) {
    if (*at == '/' && part.length) make_folder(part.text);
    const char one[2] = {*at, 0};
    part.add(one);
  }
}

long write_text(const char* path, const char* text) {
  const long file = sys::openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return file;
  const long written = sys::write(file, text, length_of(text));
  sys::close(file);
  return written;
}

// Puts a copy of the tree of mounts at `source` onto `target`.
long bind(int source, const char* target, uint32_t flags) {
  struct statx found = {};
  const long known = sys::call(__NR_statx, source, of(""), kEmptyPath, STATX_TYPE, of(&found));
  if (known < 0) return known;
  make_parents(target);
  const char* path = target + 1;
  if ((found.stx_mode & 0170000) == 0040000) {
    make_folder(path);
  } else {
    const long file = sys::openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file >= 0) sys::close(file);
  }
  const long tree = sys::call(__NR_open_tree, source, of(""), kEmptyPath | kRecursive | OPEN_TREE_CLONE | O_CLOEXEC);
  if (tree < 0) return tree;
  struct mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_NOSUID;
  if (!(flags & kDevice)) attributes.attr_set |= MOUNT_ATTR_NODEV;
  if (flags & kDevice) attributes.attr_set |= MOUNT_ATTR_NOEXEC;
  if (!(flags & (kWritable | kDevice))) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  long result =
      sys::call(__NR_mount_setattr, tree, of(""), kEmptyPath | kRecursive, of(&attributes), sizeof attributes);
  if (result >= 0) {
    result = sys::call(__NR_move_mount, tree, of(""), AT_FDCWD, of(path), MOVE_MOUNT_F_EMPTY_PATH);
  }
  sys::close(tree);
  return result;
}

}  // namespace

Failure open_binds(const Setup& setup, const char* const* hosts, int* opened) {
  for (uint32_t i = 0; i < setup.binds; ++i) {
    opened[i] = -1;
    if (setup.flags[i] & (kLink | kText)) continue;
    const long fd = sys::openat(AT_FDCWD, hosts[i], O_PATH | O_CLOEXEC);
    if (fd < 0 && !(setup.flags[i] & kOptional)) return failed(Step::kBind, fd, i);
    opened[i] = static_cast<int>(fd < 0 ? -1 : fd);
  }
  return {};
}

Failure make_proc(const char* path) {
  const long result = mount("proc", path, "proc", kNoSuid | kNoDev | kNoExec, nullptr);
  return result < 0 ? failed(Step::kProc, result) : Failure{};
}

Failure make_work(uint64_t bytes, uint64_t inodes, const char* box, const char* shm, const char* tmp) {
  // One file system with one limit, seen at three places; its own root is then hidden by /tmp.
  Line<128> options;
  options.add("mode=0755,size=").add(bytes).add(",nr_inodes=").add(inodes);
  long result = mount("codeshell", tmp, "tmpfs", kNoSuid | kNoDev, options.text);
  if (result < 0) return failed(Step::kWorkFolder, result);
  const char* views[3][2] = {{"/box", box}, {"/shm", shm}, {"/tmp", tmp}};
  for (const auto& view : views) {
    Line<256> path;
    path.add(tmp).add(view[0]);
    if ((result = make_folder(path.text)) < 0) return failed(Step::kWorkFolder, result);
  }
  for (const auto& view : views) {
    Line<256> path;
    path.add(tmp).add(view[0]);
    result = mount(path.text, view[1], nullptr, kBind, nullptr);
    if (result < 0) return failed(Step::kWorkFolder, result);
  }
  return {};
}

Failure make_root(const Setup& setup, const char* const* hosts, const char* const* insides, const int* opened) {
  // Nothing that is mounted from here on reaches the namespace of the host, nor comes from there.
  long result = mount(nullptr, "/", nullptr, kRec | kPrivate, nullptr);
  if (result < 0) return failed(Step::kRoot, result);
  result = mount("codeshell", "/tmp", "tmpfs", kNoSuid | kNoDev, "size=4m,nr_inodes=4096,mode=0755");
  if (result < 0) return failed(Step::kRoot, result);
  result = sys::call(__NR_chdir, of("/tmp"));
  if (result < 0) return failed(Step::kRoot, result);

  for (const char* name : {"dev", "proc", "tmp", "box", "dev/shm", "etc"}) make_folder(name);
  if (const Failure failure = make_proc("proc")) return failure;
  // Before the binds, so that one below /tmp is seen.
  if (const Failure failure = make_work(setup.bytes, setup.inodes, "box", "dev/shm", "tmp")) return failure;
  for (uint32_t i = 0; i < setup.binds; ++i) {
    if (insides[i][0] != '/') return failed(Step::kBind, -22, i);
    if (setup.flags[i] & kLink) {
      make_parents(insides[i]);
      result = sys::call(__NR_symlinkat, of(hosts[i]), AT_FDCWD, of(insides[i] + 1));
    } else if (setup.flags[i] & kText) {
      make_parents(insides[i]);
      result = write_text(insides[i] + 1, hosts[i]);
    } else {
      result = opened[i] < 0 ? 0 : bind(opened[i], insides[i], setup.flags[i]);
      if (opened[i] >= 0) sys::close(opened[i]);
    }
    if (result < 0) return failed(Step::kBind, result, i);
  }

  // The old root lies below the new one for a moment, then is gone.
  result = sys::call(__NR_pivot_root, of("."), of("."));
  if (result < 0) return failed(Step::kPivot, result);
  result = sys::call(__NR_umount2, of("."), kDetach);
  if (result < 0) return failed(Step::kPivot, result);
  struct mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  result = sys::call(__NR_mount_setattr, AT_FDCWD, of("/"), 0, of(&attributes), sizeof attributes);
  if (result < 0) return failed(Step::kPivot, result);
  result = sys::call(__NR_chdir, of("/box"));
  if (result < 0) return failed(Step::kPivot, result);

  // No user namespaces inside: the filter forbids them too. An old /proc may lack the file.
  write_text("/proc/sys/user/max_user_namespaces", "0");
  return {};
}

}  // namespace codeshell::sandbox
