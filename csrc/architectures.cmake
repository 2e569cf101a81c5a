# Which GPUs each kernel is compiled for: what kernels.cmake lists for it, narrowed to what the user asks for in
# CODESHELL_ARCHITECTURES and to what this nvcc knows.
#
#   all (or empty)        everything that kernels.cmake lists; what an old nvcc does not know is left out
#   native                the GPUs of this machine, as nvidia-smi tells them
#   80;86  8.0,8.6  sm_80 these alone; 90 and 90a both mean Hopper: 90 of one kernel, 90a of another; 80-virtual is PTX
#
# A kernel for which nothing of that is left is no error: _C says so, and PyTorch serves.

# Ends the configuration with one line, the arguments joined. The space at its start keeps CMake from wrapping it.
function(codeshell_stop)
  set(text "")
  math(EXPR last "${ARGC} - 1")
  foreach(index RANGE ${last})  # not ${ARGV}, which is split at each semicolon
    string(APPEND text "${ARGV${index}}")
  endforeach()
  message(FATAL_ERROR " codeshell: ${text}")
endfunction()

# One name as kernels.cmake spells it, 90 for 90a: "sm_80", "8.0" -> "80".
function(codeshell_spell name out)
  string(REGEX REPLACE "^sm_" "" name "${name}")
  string(REGEX REPLACE "^([0-9]+)\\.([0-9])" "\\1\\2" name "${name}")
  string(REGEX REPLACE "^90a$" "90" name "${name}")
  set(${out} "${name}" PARENT_SCOPE)
endfunction()

# The names that stand for the GPUs of this machine: of each the newest code that it runs, which is machine code of its
# generation, else PTX.
function(codeshell_native known out)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE answer ERROR_VARIABLE answer RESULT_VARIABLE status)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${answer}")
  if(NOT status EQUAL 0 OR NOT capabilities)
    codeshell_stop("CODESHELL_ARCHITECTURES=native: nvidia-smi finds no GPU on this machine; "
      "name the architectures, such as 80,86, or leave it out for all of them")
  endif()
  set(names "")
  foreach(capability IN LISTS capabilities)
    string(REPLACE "." ";" pair "${capability}")
    list(GET pair 0 major)
    list(GET pair 1 minor)
    if(major LESS 8)
      message(STATUS "codeshell: a GPU of ${capability} is left out: the kernels need 8.0 or newer")
      continue()
    endif()
    set(best "80-virtual")
    set(best_minor -1)
    if(pair STREQUAL "8;7")  # Jetson Orin: NVIDIA promises it no desktop GPU's code
      set(major none)
    endif()
    foreach(name IN LISTS known)
      if(name MATCHES "^${major}([0-9])$" AND CMAKE_MATCH_1 LESS_EQUAL minor AND CMAKE_MATCH_1 GREATER best_minor)
        set(best ${name})
        set(best_minor ${CMAKE_MATCH_1})
      endif()
    endforeach()
    list(APPEND names ${best})
  endforeach()
  if(NOT names)
    codeshell_stop("CODESHELL_ARCHITECTURES=native: the GPUs of this machine are older than 8.0, and no kernel runs on "
      "them; CODESHELL_CUDA=0 builds without CUDA")
  endif()
  set(${out} "${names}" PARENT_SCOPE)
endfunction()

# What a kernel can be compiled for.
function(codeshell_possible kernel out)
  if(kernel IN_LIST CODESHELL_HOPPER_KERNELS)
    set(${out} "${CODESHELL_HOPPER_ARCHITECTURES}" PARENT_SCOPE)
  else()
    set(${out} "${CODESHELL_ALL_ARCHITECTURES}" PARENT_SCOPE)
  endif()
endfunction()

# Sets in the caller, for each kernel of CODESHELL_KERNELS, ${kernel}_ARCHITECTURES: names of kernels.cmake, perhaps
# none. with_cuda: whether there is an nvcc; without one all are empty, and only the spelling is checked.
function(codeshell_choose_architectures with_cuda)
  set(known "")
  foreach(name IN LISTS CODESHELL_ALL_ARCHITECTURES CODESHELL_HOPPER_ARCHITECTURES)
    codeshell_spell("${name}" name)
    list(APPEND known "${name}")
  endforeach()
  list(REMOVE_DUPLICATES known)

  # What is asked for. A separator is a semicolon, a comma, or blank space.
  string(STRIP "${CODESHELL_ARCHITECTURES}" asked)
  string(REGEX REPLACE "[ \t]*[,;][ \t]*|[ \t]+" ";" asked "${asked}")
  if(asked STREQUAL "" OR asked STREQUAL "all")
    set(wanted "${known}")
  elseif(asked STREQUAL "native")
    set(wanted "${known}")
    if(with_cuda)
      codeshell_native("${known}" wanted)
    endif()
  else()
    set(wanted "")
    string(REPLACE ";" ", " choices "${known}")
    foreach(piece IN LISTS asked)
      codeshell_spell("${piece}" name)
      if(NOT name IN_LIST known)
        codeshell_stop("CODESHELL_ARCHITECTURES: \"${piece}\" is none of ${choices} (90 covers 90a, 80-virtual is "
          "PTX), native, all; code of 8.6 also runs on 8.9, of 10.0 on 10.3, of 12.0 on 12.1")
      endif()
      list(APPEND wanted "${name}")
    endforeach()
  endif()

  # What nvcc knows of it.
  if(with_cuda)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
      codeshell_stop("${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}, and the kernels need 12.0 or "
        "newer; put a newer nvcc first on PATH, set CUDACXX to it, or build without CUDA by CODESHELL_CUDA=0")
    endif()
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE supported RESULT_VARIABLE status)
    string(REGEX MATCHALL "[0-9]+" supported "${supported}")
    set(missing "")
    foreach(name IN LISTS wanted)
      string(REGEX REPLACE "-virtual$" "" number "${name}")
      if(status EQUAL 0 AND NOT number IN_LIST supported)
        list(APPEND missing "${name}")
      endif()
    endforeach()
    if(missing)
      list(REMOVE_ITEM wanted ${missing})
      string(REPLACE ";" ", " missing "${missing}")
      if(NOT (asked STREQUAL "" OR asked STREQUAL "all"))
        codeshell_stop("CODESHELL_ARCHITECTURES: nvcc ${CMAKE_CUDA_COMPILER_VERSION} cannot compile for ${missing}; put "
          "a newer nvcc first on PATH, or use CODESHELL_ARCHITECTURES=all, which leaves out what nvcc does not know")
      endif()
      message(STATUS "codeshell: left out ${missing}, for which nvcc ${CMAKE_CUDA_COMPILER_VERSION} cannot compile; "
        "PTX of 80 serves those GPUs")
    endif()
  endif()

  # What is left for each kernel.
  foreach(kernel IN LISTS CODESHELL_KERNELS)
    set(chosen "")
    codeshell_possible(${kernel} possible)
    foreach(name IN LISTS possible)
      codeshell_spell("${name}" spelled)
      if(with_cuda AND spelled IN_LIST wanted)
        list(APPEND chosen "${name}")
      endif()
    endforeach()
    set(${kernel}_ARCHITECTURES "${chosen}" PARENT_SCOPE)
  endforeach()
endfunction()

# Writes the file with what was chosen for each kernel and what it can be compiled for, which _C tells; untouched if
# nothing has changed.
function(codeshell_write_architectures file)
  set(pairs "")
  set(choices "")
  set(all "")
  foreach(kernel IN LISTS CODESHELL_KERNELS)
    string(REGEX REPLACE "^csrc/" "" source "${kernel}")
    string(REPLACE ";" "," names "${${kernel}_ARCHITECTURES}")
    list(APPEND pairs "${source}=${names}")
    codeshell_possible(${kernel} possible)
    string(REPLACE ";" "," names "${possible}")
    list(APPEND choices "${source}=${names}")
    list(APPEND all ${${kernel}_ARCHITECTURES})
  endforeach()
  # For people: machine code by number, then PTX.
  list(REMOVE_DUPLICATES all)
  set(machine "${all}")
  list(FILTER machine EXCLUDE REGEX "-virtual$")
  list(SORT machine COMPARE NATURAL)
  list(FILTER all INCLUDE REGEX "-virtual$")
  list(TRANSFORM all REPLACE "^(.*)-virtual$" "PTX of \\1")
  list(APPEND machine ${all})
  string(REPLACE ";" ", " summary "${machine}")
  file(CONFIGURE OUTPUT ${file} @ONLY CONTENT [=[
// Written by csrc/architectures.cmake.
#include "gpu/device.h"

std::string codeshell::gpu::kernel_architectures() { return "@pairs@"; }

std::string codeshell::gpu::possible_architectures() { return "@choices@"; }

std::string codeshell::gpu::cuda_architectures() { return "@summary@"; }
]=])
  set(CODESHELL_ARCHITECTURES_SUMMARY "${summary}" PARENT_SCOPE)
endfunction()
