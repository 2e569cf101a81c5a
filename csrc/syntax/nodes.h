// The syntax tree of a text as an array: the visible nodes in preorder, 16 bytes each. Written in C (nodes.c), because
// it reads tree-sitter's own structures, whose headers are C; everything above it is C++.
//
// Why not the public cursor: it finds each child anew, compares names and keeps rows and columns. This walk takes the
// children where they lie and needs a tenth of the time of parsing (docs/quality.md).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct TSLanguage;
struct TSTree;

// Fields of a grammar that metrics ask for, as bits: what a child is to its parent.
enum { CS_FIELD_NAME = 1, CS_FIELD_DECLARATOR = 2, CS_FIELD_LEFT = 4, CS_FIELD_BODY = 8, CS_FIELD_PARAMETERS = 16 };

enum { CS_NODE_ERROR = 1, CS_NODE_MISSING = 2, CS_NODE_EXTRA = 4 };

typedef struct {
  uint16_t symbol;  // of the grammar; of an error: the grammar's number of symbols
  uint8_t fields;   // CS_FIELD_*
  uint8_t flags;    // CS_NODE_*
  uint32_t start;   // byte
  uint32_t end;     // byte behind the last
  uint32_t next;    // index of the first node that is not below this one: i + 1 for a leaf
} cs_node;

typedef struct cs_walk cs_walk;  // memory that the walks of one grammar use again

// NULL without memory. The language must outlive the walk.
cs_walk *cs_walk_new(const struct TSLanguage *language);
void cs_walk_delete(cs_walk *walk);

// The nodes of the tree, valid until the next call; NULL without memory. No recursion, whatever the depth.
const cs_node *cs_walk_nodes(cs_walk *walk, const struct TSTree *tree, size_t *count);

#ifdef __cplusplus
}
#endif
