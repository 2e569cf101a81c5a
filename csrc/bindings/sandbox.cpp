// Sandboxes for generated code: csrc/sandbox. codeshell/evaluate/sandbox/launch.py is the only caller of Box; the server
// inside a sandbox calls fork_program.
//
// The GIL is released while a program runs; every 0.1 s Python looks for signals such as Ctrl-C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "bindings/quality.h"
#include "sandbox/filter.h"
#include "sandbox/group.h"
#include "sandbox/launch.h"
#include "sandbox/program.h"

namespace py = pybind11;

namespace codeshell::bindings {

namespace {

using sandbox::Box;
using sandbox::Cause;

const char* name_of(Cause cause) {
  switch (cause) {
    case Cause::kEnded: return "ended";
    case Cause::kCpuTime: return "cpu_time";
    case Cause::kWallTime: return "wall_time";
    case Cause::kMemory: return "memory";
    case Cause::kOutput: return "output";
    case Cause::kKilled: return "killed";
  }
  return "ended";
}

std::unique_ptr<Box> make_box(int level, const std::vector<std::tuple<std::string, std::string, uint32_t>>& binds,
                              uint64_t bytes, uint64_t inodes, uint64_t kept, bool group, uint64_t memory,
                              uint64_t processes, const std::string& folder) {
  sandbox::BoxOptions options;
  options.level = level;
  for (const auto& [host, inside, flags] : binds) options.binds.push_back({host, inside, flags});
  options.bytes = bytes;
  options.inodes = inodes;
  options.kept = kept;
  options.group = group;
  options.memory = memory;
  options.processes = processes;
  options.folder = folder;
  options.landlock_abi = static_cast<uint32_t>(sandbox::landlock_abi());
  const py::gil_scoped_release released;
  return std::make_unique<Box>(options);
}

void start(Box& box, const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
           const std::vector<std::string>& paths, const std::string& folder, const py::bytes& input, double cpu_seconds,
           double wall_seconds, uint64_t memory, uint64_t address_space, uint64_t file_bytes, uint64_t processes,
           uint64_t drained, bool nested, bool keep_output, const std::vector<std::pair<int, int>>& descriptors) {
  if (!(cpu_seconds >= 0 && cpu_seconds < 1e9 && wall_seconds >= 0 && wall_seconds < 1e9)) {
    throw py::value_error("cpu_seconds, wall_seconds: must be 0 to 1e9");
  }
  sandbox::RunOptions options;
  options.arguments = arguments;
  options.environment = environment;
  options.paths = paths;
  options.folder = folder;
  options.input = input;
  options.cpu_seconds = cpu_seconds;
  options.wall_seconds = wall_seconds;
  options.memory = memory;
  options.address_space = address_space;
  options.file_bytes = file_bytes;
  options.processes = processes;
  options.drained = drained;
  options.nested = nested;
  options.keep_output = keep_output;
  options.scoped = sandbox::landlock_abi() >= 6;
  options.descriptors = descriptors;
  const py::gil_scoped_release released;
  box.start(options);
}

py::object wait(Box& box, double seconds) {
  std::optional<sandbox::Outcome> outcome;
  for (double left = seconds; !outcome; left -= 0.1) {
    {
      const py::gil_scoped_release released;
      outcome = box.wait(std::max(0.0, std::min(left, 0.1)));
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!outcome && left <= 0.1) return py::none();
  }
  py::dict result;
  result["wait_status"] = outcome->wait_status;
  result["cause"] = name_of(outcome->cause);
  result["stdout"] = py::bytes(outcome->output);
  result["stderr"] = py::bytes(outcome->errors);
  result["output_bytes"] = outcome->output_bytes;
  result["cpu_seconds"] = outcome->cpu_seconds;
  result["wall_seconds"] = outcome->wall_seconds;
  result["peak_memory"] = outcome->peak_memory;
  result["killed"] = outcome->killed;
  return result;
}

void write(Box& box, const std::vector<std::pair<std::string, py::bytes>>& files) {
  std::vector<std::pair<std::string, std::string>> copies;
  copies.reserve(files.size());
  for (const auto& [name, data] : files) copies.emplace_back(name, data);
  const py::gil_scoped_release released;
  box.write(copies);
}

void kill(Box& box, const std::string& cause) {
  box.kill(cause == "wall_time" ? Cause::kWallTime : cause == "memory" ? Cause::kMemory : Cause::kKilled);
}

void close(Box& box) {
  const py::gil_scoped_release released;
  box.close();
}

py::dict groups() {
  const sandbox::Groups& found = sandbox::find_groups();
  py::dict result;
  result["version"] = found.version;
  result["folders"] = py::make_tuple(found.memory, found.pids, found.cpu);
  result["obstacle"] = found.obstacle;
  return result;
}

int fork_program(double cpu_seconds, uint64_t address_space, uint64_t processes, uint64_t file_bytes, uint64_t files,
                 const std::vector<int>& keep_fds, bool namespaces) {
  if (!(cpu_seconds >= 0 && cpu_seconds < 1e9)) throw py::value_error("cpu_seconds: must be 0 to 1e9");
  sandbox::ProgramOptions options;
  options.namespaces = namespaces;
  options.cpu_seconds = cpu_seconds;
  options.address_space = address_space;
  options.processes = processes;
  options.file_bytes = file_bytes;
  options.inodes = files;
  options.kept = keep_fds;
  // What os.fork does around the system call, for the locks of the interpreter.
  PyOS_BeforeFork();
  pid_t pid = 0;
  try {
    pid = sandbox::fork_program(options);
  } catch (...) {
    PyOS_AfterFork_Parent();
    throw;
  }
  if (pid == 0) {
    PyOS_AfterFork_Child();
  } else {
    PyOS_AfterFork_Parent();
  }
  return pid;
}

py::tuple program_usage() {
  double cpu_seconds = 0;
  uint64_t resident = 0;
  sandbox::program_usage(&cpu_seconds, &resident);
  return py::make_tuple(cpu_seconds, resident);
}

// Each instruction is a struct sock_filter of 8 bytes.
py::bytes filter(const std::string& kind, bool scoped) {
  sandbox::Filter which;
  if (kind == "strict") {
    which = sandbox::Filter::kStrict;
  } else if (kind == "shared") {
    which = sandbox::Filter::kShared;
  } else if (kind == "nested") {
    which = sandbox::Filter::kNested;
  } else {
    throw py::value_error("kind: must be strict, shared or nested");
  }
  const std::vector<sock_filter> code = sandbox::make_filter(which, scoped);
  return py::bytes(reinterpret_cast<const char*>(code.data()), code.size() * sizeof(sock_filter));
}

}  // namespace

void bind_sandbox(py::module_& module) {
  py::register_exception<sandbox::Refused>(module, "Refused");
  py::class_<Box>(module, "Box")
      .def(py::init(&make_box), py::kw_only(), py::arg("level"), py::arg("binds"), py::arg("bytes"), py::arg("inodes"),
           py::arg("kept"), py::arg("group"), py::arg("memory"), py::arg("processes"), py::arg("folder"))
      .def("write", &write, py::arg("files"))
      .def("start", &start, py::kw_only(), py::arg("arguments"), py::arg("environment"), py::arg("paths"),
           py::arg("folder"), py::arg("input"), py::arg("cpu_seconds"), py::arg("wall_seconds"), py::arg("memory"),
           py::arg("address_space"), py::arg("file_bytes"), py::arg("processes"), py::arg("drained"), py::arg("nested"),
           py::arg("keep_output"), py::arg("descriptors"))
      .def("wait", &wait, py::arg("seconds"))
      .def("kill", &kill, py::arg("cause"))
      .def("close", &close)
      .def_property_readonly("keeper", &Box::keeper);
  module.def("groups", &groups);
  module.def("landlock_abi", &sandbox::landlock_abi);
  module.attr("built") = sandbox::kKeeperSize > 0;
  module.def("filter", &filter, py::arg("kind"), py::arg("scoped") = true);
  module.def("fork_program", &fork_program, py::kw_only(), py::arg("cpu_seconds"), py::arg("address_space"),
             py::arg("processes"), py::arg("file_bytes"), py::arg("files"), py::arg("keep_fds"),
             py::arg("namespaces") = true);
  module.def("program_failure", &sandbox::program_failure);
  module.def("program_usage", &program_usage);
  module.def("remove_tree", &sandbox::remove_tree, py::arg("path"));
}

}  // namespace codeshell::bindings
