// The walk of nodes.h. It reads tree-sitter's tree as it lies in memory: subtree.h, tree.h and language.h of the pinned
// core (csrc/syntax/tree_sitter.cmake checks that they are those).
#include "syntax/nodes.h"

#include <stdlib.h>
#include <string.h>

// The core's own headers; the build adds their folder.
#include <subtree.h>
#include <tree.h>

#include <language.h>

// The children of a node that are still to come.
typedef struct {
  const Subtree *child;      // the next one
  const Subtree *end;        // behind the last
  const TSSymbol *alias;     // the alias of the next structural child, or NULL: none has one
  const uint8_t *fields;     // the fields of the next structural child, or NULL: none has one
  uint32_t node;             // index of the node that they are below of, or NO_NODE: a hidden rule
  uint8_t inherited;         // fields that a hidden rule hands on to what it consists of
} Frame;

static const uint32_t NO_NODE = UINT32_MAX;

struct cs_walk {
  const TSLanguage *language;
  uint8_t *fields;         // (productions, children): CS_FIELD_* of a child
  uint32_t productions;
  uint32_t children;
  Frame *frames;
  size_t frame_capacity;
  cs_node *nodes;
  size_t node_capacity;
};

// The bits of a field of the grammar by its name.
static uint8_t field_bits(const char *name) {
  static const struct {
    const char *name;
    uint8_t bits;
  } kept[] = {{"name", CS_FIELD_NAME},   {"declarator", CS_FIELD_DECLARATOR}, {"left", CS_FIELD_LEFT},
              {"pattern", CS_FIELD_LEFT}, {"body", CS_FIELD_BODY},
              {"parameters", CS_FIELD_PARAMETERS}};
  for (size_t i = 0; i < sizeof kept / sizeof *kept; ++i) {
    if (strcmp(name, kept[i].name) == 0) return kept[i].bits;
  }
  return 0;
}

cs_walk *cs_walk_new(const TSLanguage *language) {
  cs_walk *walk = calloc(1, sizeof *walk);
  if (!walk) return NULL;
  walk->language = language;
  walk->productions = language->production_id_count;
  walk->children = language->max_alias_sequence_length;
  // The grammar lists fields by production; a table answers in one step.
  const TSFieldMapEntry *entry, *end;
  if (language->field_count > 0) {
    for (uint32_t id = 0; id < walk->productions; ++id) {
      // A production may have fields of children beyond the longest sequence of aliases.
      ts_language_field_map(language, id, &entry, &end);
      for (; entry < end; ++entry) {
        if (entry->child_index >= walk->children) walk->children = entry->child_index + 1u;
      }
    }
  }
  walk->fields = calloc((size_t)walk->productions * walk->children + 1, 1);
  walk->frame_capacity = 256;
  walk->frames = malloc(walk->frame_capacity * sizeof *walk->frames);
  walk->node_capacity = 1 << 14;
  walk->nodes = malloc(walk->node_capacity * sizeof *walk->nodes);
  if (!walk->fields || !walk->frames || !walk->nodes) {
    cs_walk_delete(walk);
    return NULL;
  }
  if (language->field_count > 0) {
    for (uint32_t id = 0; id < walk->productions; ++id) {
      ts_language_field_map(language, id, &entry, &end);
      for (; entry < end; ++entry) {
        // An inherited field belongs to a child of the hidden child, whose own production names it.
        if (entry->inherited) continue;
        walk->fields[(size_t)id * walk->children + entry->child_index] |=
            field_bits(language->field_names[entry->field_id]);
      }
    }
  }
  return walk;
}

void cs_walk_delete(cs_walk *walk) {
  if (!walk) return;
  free(walk->fields);
  free(walk->frames);
  free(walk->nodes);
  free(walk);
}

// Room for one more frame and node; false without memory.
static bool reserve(cs_walk *walk, size_t frames, size_t nodes) {
  if (frames == walk->frame_capacity) {
    Frame *more = realloc(walk->frames, 2 * walk->frame_capacity * sizeof *more);
    if (!more) return false;
    walk->frames = more;
    walk->frame_capacity *= 2;
  }
  if (nodes == walk->node_capacity) {
    cs_node *more = realloc(walk->nodes, 2 * walk->node_capacity * sizeof *more);
    if (!more) return false;
    walk->nodes = more;
    walk->node_capacity *= 2;
  }
  return true;
}

const cs_node *cs_walk_nodes(cs_walk *walk, const TSTree *tree, size_t *count) {
  const TSLanguage *language = walk->language;
  // The names that a grammar gives to a node in some places only (aliases) are numbered after its symbols.
  const uint16_t error_symbol = (uint16_t)ts_language_symbol_count(language);
  // A frame of its own for the root, so that it is handled as any other child.
  size_t depth = 1, nodes = 0;
  uint32_t position = 0;
  walk->frames[0] = (Frame){&tree->root, &tree->root + 1, NULL, NULL, NO_NODE, 0};
  while (depth > 0) {
    Frame *frame = &walk->frames[depth - 1];
    if (frame->child == frame->end) {
      // All below the node are written.
      if (frame->node != NO_NODE) walk->nodes[frame->node].next = (uint32_t)nodes;
      --depth;
      continue;
    }
    const Subtree child = *frame->child++;
    const bool extra = ts_subtree_extra(child);
    TSSymbol symbol = ts_subtree_symbol(child);
    uint8_t fields = frame->inherited;
    bool visible = ts_subtree_visible(child);
    // Comments may stand anywhere: they have no place in the production, hence no alias and no field.
    if (!extra) {
      if (frame->alias) {
        const TSSymbol alias = *frame->alias++;
        if (alias) {
          symbol = alias;
          visible = true;
        }
      }
      if (frame->fields) fields |= *frame->fields++;
    } else {
      fields = 0;
    }
    const uint32_t start = position + ts_subtree_padding(child).bytes;
    const uint32_t end = start + ts_subtree_size(child).bytes;
    if (!reserve(walk, depth, nodes)) return NULL;
    uint32_t index = NO_NODE;
    if (visible) {
      index = (uint32_t)nodes++;
      const uint8_t flags = (uint8_t)((symbol == ts_builtin_sym_error ? CS_NODE_ERROR : 0) |
                                      (ts_subtree_missing(child) ? CS_NODE_MISSING : 0) | (extra ? CS_NODE_EXTRA : 0));
      walk->nodes[index] =
          (cs_node){symbol < error_symbol ? symbol : error_symbol, fields, flags, start, end, index + 1};
    }
    const uint32_t children = ts_subtree_child_count(child);
    if (children == 0) {
      position = end;
      continue;
    }
    // Production 0 has neither aliases nor fields, and any number of children (errors, repetitions).
    const uint32_t production = child.ptr->production_id;
    const Subtree *first = ts_subtree_children(child);
    walk->frames[depth++] = (Frame){first,
                                    first + children,
                                    ts_language_alias_sequence(language, production),
                                    production ? walk->fields + (size_t)production * walk->children : NULL,
                                    index,
                                    index == NO_NODE ? fields : 0};
  }
  *count = nodes;
  return walk->nodes;
}
