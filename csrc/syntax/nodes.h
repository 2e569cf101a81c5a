// The syntax tree of a text as an array: the visible nodes in preorder, 16 bytes each. Written in C (nodes.c), because
// it reads tree-sitter's own structures, whose headers are C; everything above it is C++.
//
// Why not the public cursor: it finds each child anew, compares names and keeps rows and columns. This walk takes the
// children where they lie and needs a tenth of the time of parsing (docs/quality.md).
//
// Memory: the parser takes all it needs from an arena that is emptied after each text. That is faster than giving back
// each node; and a text on which the search for a way out of errors would take gigabytes (12 kB of "x=>" took 5 GB as C)
// is left by a long jump, which the parser itself has no way to do.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct TSLanguage;

// Fields of a grammar that metrics ask for, as bits: what a child is to its parent.
enum { CS_FIELD_NAME = 1, CS_FIELD_DECLARATOR = 2, CS_FIELD_LEFT = 4, CS_FIELD_BODY = 8, CS_FIELD_PARAMETERS = 16 };

enum { CS_NODE_ERROR = 1, CS_NODE_MISSING = 2, CS_NODE_EXTRA = 4 };

typedef struct {
  uint16_t symbol;  // of the grammar; of an error: the grammar's number of symbols
  uint8_t fields;   // CS_FIELD_*
  uint8_t flags;    // CS_NODE_*
  uint32_t start;   // byte
  uint32_t end;     // the byte after the last
  uint32_t next;    // index of the first node that is not below this one: i + 1 for a leaf
} cs_node;

// A parser for one grammar, with memory that it uses again for each text.
typedef struct cs_parser cs_parser;

// NULL without memory. The language must outlive the parser.
cs_parser* cs_parser_new(const struct TSLanguage* language);
void cs_parser_delete(cs_parser* parser);

typedef enum { CS_PARSED, CS_TOO_MANY_STEPS, CS_TOO_MUCH_MEMORY, CS_NO_MEMORY } cs_status;

// Parses a text within a budget: `steps` hundreds of operations of the parser, and `memory` bytes of its structures.
// Both are counted and not timed, so that the same text has the same answer on every machine. `nodes` receives the
// nodes of the tree, valid until the next call; with NULL nothing but the parsing is done. No recursion here, whatever
// the depth. One thread at a time.
cs_status cs_parse(cs_parser* parser, const char* text, uint32_t size, uint64_t steps, size_t memory,
                   const cs_node** nodes, size_t* count);

#ifdef __cplusplus
}
#endif
