# The runtime of tree-sitter: where its C sources come from, and what of csrc/syntax is compiled with them.
#
# CODESHELL_TREE_SITTER: "auto" (pip downloads the sources; without them the metrics of syntax trees are left out), "1"
# (their absence is an error), "0" (left out), or the folder that holds them (an unpacked source distribution of
# tree-sitter from PyPI). csrc/syntax/fetch.py names the version and checks it.
set(CODESHELL_TREE_SITTER "auto" CACHE STRING "auto, 1, 0 or a folder")

function(codeshell_add_tree_sitter target)
  if(CODESHELL_TREE_SITTER STREQUAL "0")
    message(STATUS "codeshell: WITHOUT metrics of syntax trees (CODESHELL_TREE_SITTER=0)")
    return()
  endif()
  set(where "")
  if(NOT CODESHELL_TREE_SITTER MATCHES "^(auto|1)$")
    set(where "${CODESHELL_TREE_SITTER}")
    if(NOT IS_DIRECTORY "${where}")
      codeshell_stop("CODESHELL_TREE_SITTER: \"${where}\" is not auto, 1, 0 or a folder")
    endif()
  endif()
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/csrc/syntax/fetch.py "${where}"
            ${CMAKE_CURRENT_BINARY_DIR}/tree-sitter
    OUTPUT_VARIABLE sources ERROR_VARIABLE reason RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed)
    string(STRIP "${reason}" reason)
    string(REGEX REPLACE ".*\n" "" reason "${reason}")
    if(CODESHELL_TREE_SITTER STREQUAL "auto")
      message(STATUS "codeshell: WITHOUT metrics of syntax trees: ${reason}")
      return()
    endif()
    codeshell_stop("CODESHELL_TREE_SITTER=${CODESHELL_TREE_SITTER}, but ${reason}")
  endif()
  # Plain C; its symbols stay inside, so that another copy in the same process cannot meet them.
  add_library(tree_sitter OBJECT csrc/syntax/nodes.c)
  set_target_properties(tree_sitter PROPERTIES C_STANDARD 11 C_VISIBILITY_PRESET hidden)
  target_compile_definitions(tree_sitter PRIVATE TREE_SITTER_HIDE_SYMBOLS _POSIX_C_SOURCE=200112L _DEFAULT_SOURCE NDEBUG)
  target_include_directories(tree_sitter PRIVATE csrc)
  target_include_directories(tree_sitter SYSTEM PRIVATE ${sources}/include ${sources}/src)
  target_compile_options(tree_sitter PRIVATE -O3)
  target_link_libraries(${target} PRIVATE tree_sitter)
  target_sources(${target} PRIVATE csrc/syntax/grammar.cpp csrc/syntax/measure.cpp csrc/syntax/names.cpp)
  target_include_directories(${target} SYSTEM PRIVATE ${sources}/include)
  target_compile_definitions(${target} PRIVATE CODESHELL_WITH_SYNTAX TREE_SITTER_HIDE_SYMBOLS)
  message(STATUS "codeshell: metrics of syntax trees with tree-sitter from ${sources}")
endfunction()
