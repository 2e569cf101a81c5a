// Removes what a program left in a folder of the host (levels 1 and 2). The names and the tree are the program's, who
// may have nested folders thousands deep, taken away permissions, or set links to files elsewhere.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "sandbox/launch.h"

namespace codeshell::sandbox {

namespace {

// The names in an open folder. `fd` stays open.
std::vector<std::string> names_in(int fd) {
  std::vector<std::string> names;
  DIR* entries = fdopendir(dup(fd));
  if (!entries) return names;
  rewinddir(entries);
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(entries);
  return names;
}

}  // namespace

bool remove_tree(const std::string& path) {
  const int root = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root < 0) return errno == ENOENT;
  // No recursion: a folder that is not empty gives its content to the root, and is then empty.
  uint64_t next = 0;
  bool good = true;
  for (std::vector<std::string> names = names_in(root); good && !names.empty(); names = names_in(root)) {
    for (const std::string& name : names) {
      if (unlinkat(root, name.c_str(), 0) == 0) continue;
      if (errno != EISDIR && errno != EPERM) {
        good = false;
        break;
      }
      if (unlinkat(root, name.c_str(), AT_REMOVEDIR) == 0) continue;
      // The mode by the descriptor of the folder itself: nothing that a link points at.
      const int handle = openat(root, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (handle < 0) {
        good = false;
        break;
      }
      chmod(("/proc/self/fd/" + std::to_string(handle)).c_str(), 0700);
      const int folder = openat(handle, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      for (const std::string& inner : names_in(folder)) {
        const std::string moved = ".codeshell-removed-" + std::to_string(next++);
        // A folder can be moved only if its own entry ".." can be written.
        const int child = openat(folder, inner.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child >= 0) {
          chmod(("/proc/self/fd/" + std::to_string(child)).c_str(), 0700);
          close(child);
        }
        good &= renameat(folder, inner.c_str(), root, moved.c_str()) == 0;
      }
      if (folder >= 0) close(folder);
      close(handle);
      good &= folder >= 0 && unlinkat(root, name.c_str(), AT_REMOVEDIR) == 0;
    }
  }
  close(root);
  return good && rmdir(path.c_str()) == 0;
}

}  // namespace codeshell::sandbox
