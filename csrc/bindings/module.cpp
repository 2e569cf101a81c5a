// The Python module codeshell._C. Only the files of this folder include pybind11; what they call is plain C++.
//
// Rules for a binding: take buffers (NumPy arrays, Arrow buffers) and not Python objects one by one; release the GIL
// around the work; turn a bad argument into ValueError before any other C++ runs, unless the operation's only caller in
// Python has checked it (the attention kernels: see attention_tensors.h).

#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "bindings/buffers.h"
#include "bindings/gpu.h"
#include "bindings/quality.h"
#include "gpu/device.h"
#include "simd/cpu.h"

namespace py = pybind11;

namespace {

// The devices as plain dicts, so that `codeshell info` needs no torch.
py::list gpu_devices() {
  py::list devices;
  for (const auto& device : codeshell::gpu::list_devices()) {
    py::dict entry;
    entry["name"] = device.name;
    entry["capability"] = py::make_tuple(device.major, device.minor);
    entry["multiprocessors"] = device.multiprocessors;
    entry["memory_bytes"] = device.memory_bytes;
    devices.append(entry);
  }
  return devices;
}

// {source below csrc: [architecture]} from the build's own words, which device.h describes.
py::dict architectures_of(const std::string& words) {
  py::dict kernels;
  std::istringstream entries(words);
  for (std::string entry; std::getline(entries, entry, ';');) {
    const size_t equals = entry.find('=');
    py::list architectures;
    std::istringstream names(entry.substr(equals + 1));
    for (std::string name; std::getline(names, name, ',');) architectures.append(name);
    kernels[py::str(entry.substr(0, equals))] = architectures;
  }
  return kernels;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ and CUDA of codeshell; see codeshell/_C/__init__.pyi for the signatures.";
  module.attr("cuda_built") = codeshell::gpu::cuda_built();
  module.attr("cuda_architectures") = codeshell::gpu::cuda_architectures();
  module.attr("kernel_architectures") = architectures_of(codeshell::gpu::kernel_architectures());
  module.attr("possible_architectures") = architectures_of(codeshell::gpu::possible_architectures());
  module.attr("cuda_runtime") = codeshell::gpu::cuda_runtime();
#if defined(CODESHELL_DEBUG_KERNELS)
  module.attr("debug_kernels") = true;
#else
  module.attr("debug_kernels") = false;
#endif
  module.attr("kernel_sources") = codeshell::gpu::kernel_sources();
  module.attr("compiler") = CODESHELL_COMPILER;
  module.def(
      "simd_level", &codeshell::simd::level_name,
      "The widest instruction set that this processor and the build share: 'avx512', 'avx2', 'neon' or 'scalar'.");
  module.def("gpu_devices", &gpu_devices,
             "The CUDA devices as dicts; empty without a driver, a device or a CUDA build. Never raises.");
  module.def("cuda_driver", &codeshell::gpu::cuda_driver,
             "The newest CUDA that the driver of this machine knows, 13000 for 13.0; 0 without one. Never raises.");
  // Texts and near duplicates, then the operations of models on the CPU, then those with CUDA kernels.
  codeshell::bindings::bind_text(module);
  codeshell::bindings::bind_dedup_sign(module);
  codeshell::bindings::bind_dedup_candidates(module);
  codeshell::bindings::bind_dedup_join(module);
  codeshell::bindings::bind_dedup_datasketch(module);
  py::module_ bpe = module.def_submodule("bpe");
  codeshell::bindings::bind_bpe(bpe);
  // What judges a document, each subject in a submodule of its name.
  py::module_ ngram = module.def_submodule("ngram");
  codeshell::bindings::bind_ngram_model(ngram);
  codeshell::bindings::bind_ngram_train(ngram);
  py::module_ syntax = module.def_submodule("syntax");
  codeshell::bindings::bind_syntax(syntax);
  py::module_ lexical = module.def_submodule("lexical");
  codeshell::bindings::bind_lexical(lexical);
  py::module_ boosting = module.def_submodule("boosting");
  codeshell::bindings::bind_boosting(boosting);
  py::module_ secrets = module.def_submodule("secrets");
  codeshell::bindings::bind_secrets(secrets);
  codeshell::bindings::bind_contamination(secrets);
  py::module_ sandbox = module.def_submodule("sandbox");
  codeshell::bindings::bind_sandbox(sandbox);
  codeshell::bindings::bind_cpu(module);
  codeshell::bindings::bind_gate(module);
  py::module_ int8 = module.def_submodule("int8");
  codeshell::bindings::bind_int8(int8);
  codeshell::bindings::bind_kernels(module);
}
