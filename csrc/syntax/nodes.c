// Parser, arena and walk of nodes.h. The core of tree-sitter is compiled within this file, because the walk reads its
// trees as they lie in memory, and a parse that is left by a jump must give back what the grammar's own scanner holds.
// csrc/syntax/tree_sitter.cmake checks that the core is the version this was written for.
#include "syntax/nodes.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

// The build adds its folder.
#include <lib.c>

// --- Arena ----------------------------------------------------------------------------------------------------------

enum {
  FIRST_CHUNK = 1 << 20,  // enough for nearly every file of 10 kB, and kept from text to text
  CLASSES = 128,          // blocks up to 1 kB are used again, by their size in words
};

typedef struct Chunk {
  struct Chunk *before;
  size_t size;
} Chunk;

typedef struct Block {
  size_t words;  // of 8 bytes, without this one
  // then the content, or for a free block:
  struct Block *next;
} Block;

typedef struct {
  Chunk *chunk;        // the last
  char *free, *end;    // what is left of it
  size_t taken, most;  // bytes; the limit
  Block *classes[CLASSES + 1];
  jmp_buf leave;
  cs_status reason;  // why it was left
  uint64_t advanced, furthest;  // characters that were read, again and again; the limit
} Arena;

// The arena of the parse that runs in this thread.
static _Thread_local Arena *arena;

static void leave(cs_status reason) {
  arena->reason = reason;
  longjmp(arena->leave, 1);
}

static void *arena_take(size_t size) {
  const size_t words = size ? (size + 7) / 8 : 1;
  if (words <= CLASSES && arena->classes[words]) {
    Block *block = arena->classes[words];
    arena->classes[words] = block->next;
    return &block->next;
  }
  const size_t bytes = 8 * (words + 1);
  arena->taken += bytes;
  if (arena->taken > arena->most) leave(CS_TOO_MUCH_MEMORY);
  if ((size_t)(arena->end - arena->free) < bytes) {
    const size_t content = bytes > FIRST_CHUNK ? bytes : FIRST_CHUNK;
    Chunk *chunk = malloc(sizeof *chunk + content);
    if (!chunk) leave(CS_NO_MEMORY);
    *chunk = (Chunk){arena->chunk, content};
    arena->chunk = chunk;
    arena->free = (char *)(chunk + 1);
    arena->end = arena->free + content;
  }
  Block *block = (Block *)arena->free;
  arena->free += bytes;
  block->words = words;
  return &block->next;
}

static Block *block_of(void *content) { return (Block *)((char *)content - offsetof(Block, next)); }

static void *arena_take_zeros(size_t count, size_t size) {
  void *content = arena_take(count * size);
  return memset(content, 0, count * size);
}

static void arena_give_back(void *content) {
  if (!content) return;
  Block *block = block_of(content);
  if (block->words <= CLASSES) {
    block->next = arena->classes[block->words];
    arena->classes[block->words] = block;
  }
}

static void *arena_change(void *content, size_t size) {
  if (!content) return arena_take(size);
  Block *block = block_of(content);
  const size_t held = 8 * block->words;
  if (size <= held) return content;
  void *larger = arena_take(size);
  memcpy(larger, content, held);
  arena_give_back(content);
  return larger;
}

// Everything is free again; the first chunk stays.
static void arena_empty(Arena *self) {
  while (self->chunk->before) {
    Chunk *before = self->chunk->before;
    free(self->chunk);
    self->chunk = before;
  }
  self->free = (char *)(self->chunk + 1);
  self->end = self->free + self->chunk->size;
  self->taken = 0;
  memset(self->classes, 0, sizeof self->classes);
}

// --- Walk -----------------------------------------------------------------------------------------------------------

// The children of a node that are still to come.
typedef struct {
  const Subtree *child;      // the next one
  const Subtree *end;        // after the last
  const TSSymbol *alias;     // the alias of the next structural child, or NULL: none has one
  const uint8_t *fields;     // the fields of the next structural child, or NULL: none has one
  uint32_t node;             // index of the node that they are below of, or NO_NODE: a hidden rule
  uint8_t inherited;         // fields that a hidden rule hands on to what it consists of
} Frame;

static const uint32_t NO_NODE = UINT32_MAX;

struct cs_parser {
  const TSLanguage *language;
  Arena arena;
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

cs_parser *cs_parser_new(const TSLanguage *language) {
  cs_parser *walk = calloc(1, sizeof *walk);
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
  Chunk *chunk = malloc(sizeof *chunk + FIRST_CHUNK);
  walk->arena.chunk = chunk;
  walk->fields = calloc((size_t)walk->productions * walk->children + 1, 1);
  walk->frame_capacity = 256;
  walk->frames = malloc(walk->frame_capacity * sizeof *walk->frames);
  walk->node_capacity = 1 << 14;
  walk->nodes = malloc(walk->node_capacity * sizeof *walk->nodes);
  if (!chunk || !walk->fields || !walk->frames || !walk->nodes) {
    cs_parser_delete(walk);
    return NULL;
  }
  *chunk = (Chunk){NULL, FIRST_CHUNK};
  arena_empty(&walk->arena);
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

void cs_parser_delete(cs_parser *walk) {
  if (!walk) return;
  free(walk->arena.chunk);
  free(walk->fields);
  free(walk->frames);
  free(walk->nodes);
  free(walk);
}

// Room for one more frame and node; false without memory.
static bool reserve(cs_parser *walk, size_t frames, size_t nodes) {
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

// The nodes of the tree; false without memory.
static bool walk_tree(cs_parser *walk, const TSTree *tree, size_t *count) {
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
    if (!reserve(walk, depth, nodes)) return false;
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
  return true;
}

// --- Parsing --------------------------------------------------------------------------------------------------------

typedef struct {
  const char *text;
  uint32_t size;
} Input;

// The whole text in one piece.
static const char *read_input(void *payload, uint32_t byte, TSPoint point, uint32_t *read) {
  (void)point;
  const Input *input = payload;
  if (byte >= input->size) {
    *read = 0;
    return "";
  }
  *read = input->size - byte;
  return input->text + byte;
}

// What all scanners read by. Some look to the end of the text from each place of it: one operation then is as long as
// the text, so what is read is counted, too.
static void counted_advance(TSLexer *lexer, bool skip) {
  ++arena->advanced;
  ts_lexer__advance(lexer, skip);
}

// The core counts a column from the beginning of the line each time.
static uint32_t counted_column(TSLexer *lexer) {
  arena->advanced += ((const Lexer *)lexer)->current_position.extent.column;
  return ts_lexer__get_column(lexer);
}

// Called by the parser each hundred operations; true stops it. No jump here: a scanner may have memory of its own.
static bool stop_parsing(TSParseState *state) {
  uint64_t *left = state->payload;
  if (*left == 0 || arena->advanced > arena->furthest) return true;
  --*left;
  return false;
}

cs_status cs_parse(cs_parser *walk, const char *text, uint32_t size, uint64_t steps, uint64_t characters,
                   size_t memory, const cs_node **nodes, size_t *count) {
  ts_set_allocator(arena_take, arena_take_zeros, arena_change, arena_give_back);
  arena = &walk->arena;
  arena->most = memory;
  arena->advanced = 0;
  arena->furthest = characters;
  Input input = {text, size};
  uint64_t left = steps;
  cs_status status = CS_PARSED;
  // Kept in memory over the jump.
  TSParser *volatile parser = NULL;
  if (setjmp(arena->leave) == 0) {
    parser = ts_parser_new();
    parser->lexer.data.advance = counted_advance;
    parser->lexer.data.get_column = counted_column;
    ts_parser_set_language(parser, walk->language);
    const TSParseOptions options = {&left, stop_parsing};
    const TSTree *tree =
        ts_parser_parse_with_options(parser, NULL, (TSInput){&input, read_input, TSInputEncodingUTF8, NULL}, options);
    if (!tree) {
      status = CS_TOO_MANY_STEPS;
    } else if (nodes) {
      if (walk_tree(walk, tree, count)) {
        *nodes = walk->nodes;
      } else {
        status = CS_NO_MEMORY;
      }
    }
  } else {
    status = arena->reason;
  }
  // The scanner of a grammar has memory of its own; all else lies in the arena.
  if (parser && parser->external_scanner_payload && walk->language->external_scanner.destroy) {
    walk->language->external_scanner.destroy(parser->external_scanner_payload);
  }
  arena_empty(arena);
  arena = NULL;
  return status;
}
