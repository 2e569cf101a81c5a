// Looks an address up in the symbol table of the library it lies in.

#include "gpu/host/names.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

namespace codeshell::gpu::host {

namespace {

// Empty if it is not found.
std::string mangled_name(const void* kernel) {
  Dl_info info{};
  if (!dladdr(kernel, &info) || !info.dli_fname) return "";
  // A symbol that the loader knows, because the kernel has external linkage.
  if (info.dli_sname && info.dli_saddr == kernel) return info.dli_sname;
  // Else the full symbol table of the library's file, which the loader does not read.
  std::ifstream file(info.dli_fname, std::ios::binary);
  const std::vector<char> image{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (image.size() < sizeof(ElfW(Ehdr))) return "";
  // Offset of the kernel in the library; the section table lies at the end of the file.
  const auto offset = reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(image.data());
  if (header.e_shoff + header.e_shnum * sizeof(ElfW(Shdr)) > image.size()) return "";
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(image.data() + header.e_shoff);
  // The symbol table, and the strings that it is linked to.
  for (int i = 0; i < header.e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(image.data() + sections[i].sh_offset);
    const char* strings = image.data() + sections[sections[i].sh_link].sh_offset;
    // Symbol values are offsets from where the library is loaded.
    for (size_t k = 0; k < sections[i].sh_size / sizeof(ElfW(Sym)); ++k) {
      if ((symbols[k].st_info & 0xf) == STT_FUNC && symbols[k].st_value == offset) return strings + symbols[k].st_name;
    }
  }
  return "";
}

}  // namespace

std::string kernel_name(const void* kernel) {
  const std::string mangled = mangled_name(kernel);
  if (mangled.empty()) return "(unknown)";
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  // "void codeshell::(anonymous namespace)::name<T>(parameters)" to "name<T>".
  for (const char* prefix : {"void ", "codeshell::", "(anonymous namespace)::"}) {
    for (size_t at; (at = name.find(prefix)) != std::string::npos;) name.erase(at, std::string(prefix).size());
  }
  // Cut the parameters off: what follows the first parenthesis outside of template arguments.
  int depth = 0;  // template arguments may hold parentheses too: name<(Mode)0>
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0) return name.substr(0, i);
  }
  return name;
}

}  // namespace codeshell::gpu::host
