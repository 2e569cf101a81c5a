// One pass over the nodes of a text. A stack of frames holds what is known of the nodes around the present one; what a
// node adds follows from its kinds and its parent's frame. No recursion, and no text is looked at but names, numbers
// and the blanks between a comment and its function.
#include "syntax/measure.h"

#include <algorithm>
#include <cstring>

namespace codeshell::syntax {

namespace {

constexpr uint32_t NONE = UINT32_MAX;

// A node that stands where a decision is made.
constexpr Kinds DECIDES = IF | ELIF | LOOP | CASE | CATCH | TERNARY | DECISION;
// What the quick path of plain tokens does not have to look at.
constexpr Kinds STRUCTURE = FUNCTION | LAMBDA | TYPE | DECIDES | SWITCH | ELSE | JUMP | STATEMENT | DECLARATION |
                            IMPORT | CALL | ATTRIBUTE | WRAPPER | VARIABLE | PARAMETERS | PARAMETER;

// FNV-1a over at most 64 bytes and the length: names and numbers are short, and a long string is told by its beginning.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ULL ^ text.size();
  for (const char c : text.substr(0, 64)) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  hash ^= hash >> 32;
  return hash ? hash : 1;  // 0 is an empty slot
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v'; }

}  // namespace

// What is known of a node while those below it are passed.
struct Measurer::Frame {
  uint32_t next;   // the first node that is not below
  uint32_t index;  // of the node
  Kinds kinds;
  uint32_t function;   // in functions_, the one around; NONE outside
  uint32_t outermost;  // the outermost of these
  uint32_t nesting;    // cognitive complexity: levels around what is below
  uint32_t depth;      // control structures around what is below, within the function
  uint32_t logical;    // frame of the outermost of the joined logical expressions; NONE
  uint16_t operation;  // in that frame: the last operator seen
  Role role;           // of the name that is to come below
  bool error;          // the node is an error
  bool string;         // within a string
  bool data;           // within a list of values
  bool after_else;     // the last token was `else`
  bool documented;     // a comment stands right before the node
  bool block_seen;     // of a handler
  int64_t active;      // of a handler: what was active before its block
};

struct Measurer::Open {
  uint32_t frame_end;  // the first node that is not below
  Function found;
  bool body = false;
  bool parameters_seen = false, parameters_field = false;
  bool recursion_seen = false;
  uint32_t outermost;  // itself if no function is around
};

Measurer::Measurer(const Grammar& grammar) : grammar_(grammar) {}
Measurer::~Measurer() = default;

void Measurer::prepare() {
  bodies_ = std::any_of(grammar_.kinds().begin(), grammar_.kinds().end(), [](Kinds kinds) { return kinds & BLOCK; });
}

void Measurer::Distinct::clear() {
  // A large file's table is given back, so that small files need not clear it.
  if (slots_.size() > 1 << 14) slots_ = {};
  if (slots_.empty()) slots_.resize(1 << 10);
  std::fill(slots_.begin(), slots_.end(), 0);
  used_ = 0;
}

bool Measurer::Distinct::add(uint64_t hash) {
  if (2 * used_ >= slots_.size()) {
    std::vector<uint64_t> old(2 * slots_.size());
    old.swap(slots_);
    used_ = 0;
    for (const uint64_t each : old) {
      if (each) add(each);
    }
  }
  const size_t mask = slots_.size() - 1;
  size_t slot = (hash * 0x9e3779b97f4a7c15ULL >> 20) & mask;
  while (slots_[slot]) {
    if (slots_[slot] == hash) return false;
    slot = (slot + 1) & mask;
  }
  slots_[slot] = hash;
  ++used_;
  return true;
}

Metrics Measurer::measure(std::string_view text, Grammar::Nodes parsed, std::vector<Function>* functions) {
  const std::vector<Kinds>& kinds_of = grammar_.kinds();
  const std::vector<uint16_t>& same = grammar_.same();
  const cs_node* const nodes = parsed.nodes;
  const auto count = static_cast<uint32_t>(parsed.count);
  Metrics m;
  frames_.clear();
  functions_.clear();
  operands_.clear();
  seen_symbols_.assign(kinds_of.size(), 0);

  // Lines: their ends, and how many hold more than blanks.
  lines_.clear();
  for (size_t begin = 0; begin < text.size();) {
    const void* found = std::memchr(text.data() + begin, '\n', text.size() - begin);
    const size_t end = found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : text.size();
    size_t first = begin;
    while (first < end && is_blank(text[first])) ++first;
    m.code_lines += first < end;
    if (found) lines_.push_back(static_cast<uint32_t>(end));
    begin = end + 1;
  }
  const auto line_of = [&](uint32_t byte) {
    return std::lower_bound(lines_.begin(), lines_.end(), byte) - lines_.begin() + 1;
  };
  const auto slice = [&](const cs_node& node) { return text.substr(node.start, node.end - node.start); };

  // The kinds of a node. Some grammars have one node for all operators; then its text tells.
  const auto kinds_at = [&](uint32_t i) {
    const Kinds kinds = kinds_of[nodes[i].symbol];
    if (!(kinds & OPERATOR)) return kinds;
    const std::string_view word = slice(nodes[i]);
    return kinds | (word == "&&" || word == "and" ? AND : 0) | (word == "||" || word == "or" ? OR : 0);
  };

  // Where documentation ends that began with a comment on lines of its own; NONE without one.
  uint32_t comment_end = NONE;
  // Whether only blanks and at most one line end are between the comment and this byte.
  const auto follows_comment = [&](uint32_t start) {
    if (comment_end == NONE || start < comment_end) return false;
    int line_ends = 0;
    for (uint32_t byte = comment_end; byte < start; ++byte) {
      if (text[byte] == '\n') {
        if (++line_ends > 1) return false;
      } else if (!is_blank(text[byte])) {
        return false;
      }
    }
    return true;
  };
  const auto begins_line = [&](uint32_t start) {
    while (start > 0 && is_blank(text[start - 1])) --start;
    return start == 0 || text[start - 1] == '\n';
  };
  int64_t active = 0;  // named nodes that do something, for handlers without any
  const auto add_name = [&](const cs_node& node, Role role) {
    const Name name = style_of(slice(node));
    if (!name.written) return;
    ++m.names;
    m.names_one_letter += name.one_letter;
    m.names_snake += (name.styles & SNAKE) != 0;
    m.names_camel += (name.styles & CAMEL) != 0;
    m.names_pascal += (name.styles & PASCAL) != 0;
    m.names_upper += (name.styles & UPPER) != 0;
    const uint8_t convention = conventions.styles[role];
    if (!convention || name.one_letter) return;
    ++m.names_judged;
    m.names_in_convention += (name.styles & convention) != 0;
  };
  const auto add_cognitive = [&](const Frame& frame, uint32_t amount) {
    if (frame.outermost != NONE) functions_[frame.outermost].found.cognitive += amount;
  };
  const auto add_decision = [&](const Frame& frame) {
    ++m.decisions;
    if (frame.function != NONE) ++functions_[frame.function].found.cyclomatic;
  };

  // A frame around the root, so that every node has a parent.
  frames_.push_back({NONE, NONE, 0, NONE, NONE, 0, 0, NONE, 0, NO_NAME, false, false, false, false, false, false, 0});
  for (uint32_t i = 0; i < count;) {
    // Leave the nodes that end here.
    while (frames_.back().next <= i) {
      const Frame& left = frames_.back();
      if ((left.kinds & CATCH) && left.block_seen && left.active == active) ++m.empty_catches;
      frames_.pop_back();
    }
    Frame& parent = frames_.back();
    const cs_node& node = nodes[i];
    const Kinds kinds = kinds_at(i);
    const bool leaf = node.next == i + 1;
    const bool after_else = parent.after_else;

    // 1. Comments, which belong to nothing. One that begins its line may document what follows.
    if (kinds & COMMENT) {
      m.tokens_bytes += node.end - node.start;
      if (follows_comment(node.start) || begins_line(node.start)) comment_end = node.end;
      i = node.next;
      continue;
    }
    // 2. Errors: the tokens right below an error node have no rule.
    if (node.flags & (CS_NODE_ERROR | CS_NODE_MISSING)) ++m.error_nodes;
    if (leaf) {
      m.tokens_bytes += node.end - node.start;
      if (parent.error || (node.flags & CS_NODE_ERROR)) m.error_bytes += node.end - node.start;
    }
    // 3. The word `else`, and operators that join conditions.
    if (kinds & (ELSE_WORD | AND | OR)) {
      if (kinds & ELSE_WORD) {
        parent.after_else = true;
        if (parent.kinds & (IF | ELSE)) add_cognitive(parent, 1);
      } else if (parent.kinds & LOGICAL) {
        add_decision(parent);
        // A row of equal operators is one step for the reader.
        Frame& whole = frames_[parent.logical == NONE ? frames_.size() - 1 : parent.logical];
        const auto operation = static_cast<uint16_t>(kinds & AND ? 1 : 2);
        if (whole.operation != operation) add_cognitive(parent, 1);
        whole.operation = operation;
      }
    } else {
      parent.after_else = false;
    }

    Frame frame{node.next,
                i,
                kinds,
                parent.function,
                parent.outermost,
                parent.nesting,
                parent.depth,
                NONE,
                0,
                NO_NAME,
                (node.flags & CS_NODE_ERROR) != 0,
                parent.string,
                parent.data || (kinds & DATA),
                false,
                false,
                false,
                active};
    // 4. Names: a name's node is told by its field, and its owner by the way down to it.
    if (parent.role != NO_NAME) {
      const uint8_t wanted = CS_FIELD_NAME | CS_FIELD_DECLARATOR | (parent.role >= VARIABLE_NAME ? CS_FIELD_LEFT : 0);
      if (node.fields & wanted) frame.role = parent.role;
    }
    if ((parent.kinds & PARAMETERS) && (kinds & IDENTIFIER)) frame.role = PARAMETER_NAME;

    // 5. Structure.
    if (kinds & STRUCTURE) {
      bool is_function = (kinds & FUNCTION) != 0;
      // What may be either is a function if a name is given to it.
      if (is_function && (kinds & LAMBDA)) is_function = (parent.kinds & VARIABLE) != 0;
      // Where no body tells a function, what stands among data is the type of one.
      if (!bodies_ && parent.data) is_function = false;
      if (kinds & (ATTRIBUTE | WRAPPER | FUNCTION)) {
        const bool follows = follows_comment(node.start);
        frame.documented = follows || ((parent.kinds & WRAPPER) && parent.documented);
        if ((kinds & ATTRIBUTE) && follows) comment_end = node.end;
      }
      if (is_function) {
        const auto number = static_cast<uint32_t>(functions_.size());
        Open open{};
        open.outermost = parent.outermost == NONE ? number : parent.outermost;
        open.found.start = node.start;
        open.found.end = node.end;
        open.found.documented = frame.documented;
        functions_.push_back(open);
        frame.nesting = parent.function == NONE ? 0 : parent.nesting + 1;
        frame.function = number;
        frame.outermost = open.outermost;
        frame.depth = 0;
        frame.role = FUNCTION_NAME;
      } else if (kinds & LAMBDA) {
        ++frame.nesting;
      }
      if (kinds & TYPE) {
        ++m.types;
        frame.role = TYPE_NAME;
      }
      if (kinds & VARIABLE) frame.role = VARIABLE_NAME;
      if (kinds & PARAMETER) frame.role = PARAMETER_NAME;
      if (kinds & DECIDES) {
        // `default:` is where all go that no case takes; so is `_`.
        bool is_default = false;
        if ((kinds & CASE) && !leaf) {
          const uint32_t second = nodes[i + 1].next;
          is_default = (kinds_of[nodes[i + 1].symbol] & DEFAULT_WORD) || slice(nodes[i + 1]) == "_" ||
                       (second < node.next && slice(nodes[second]) == "_");
        }
        if (!is_default) add_decision(parent);
      }
      // The `else` of a loop or of `try` is a branch that no `if` has counted.
      if ((kinds & ELSE) && (parent.kinds & (LOOP | TRY))) add_decision(parent);
      if (kinds & (IF | LOOP | SWITCH | CATCH | TERNARY)) {
        // `else if` is counted at its `else`, and is no deeper than the first `if`.
        if ((kinds & IF) && after_else) {
          // The nesting stays that of the branches.
        } else {
          add_cognitive(parent, 1 + parent.nesting);
          ++frame.nesting;
          if (!(kinds & TERNARY)) m.nesting_max = std::max<int64_t>(m.nesting_max, ++frame.depth);
        }
      } else if (kinds & ELIF) {
        add_cognitive(parent, 1);
      }
      if (kinds & JUMP) {
        // A jump to a label, which is a named node.
        bool label = false;
        for (uint32_t child = i + 1; child < node.next; child = nodes[child].next) {
          label |= (kinds_of[nodes[child].symbol] & (NAMED | COMMENT)) == NAMED;
        }
        if (label) add_cognitive(parent, 1);
      }
      if ((kinds & CALL) && !leaf && parent.function != NONE) {
        Open& open = functions_[parent.function];
        const cs_node& callee = nodes[i + 1];
        if (!open.recursion_seen && (kinds_of[callee.symbol] & IDENTIFIER) && !open.found.name.empty() &&
            slice(callee) == open.found.name) {
          open.recursion_seen = true;
          add_cognitive(parent, 1);
        }
      }
      if (kinds & IMPORT) {
        ++m.imports;
      } else if (kinds & DECLARATION) {
        ++m.declarations;
      } else if (kinds & STATEMENT) {
        // A string alone does nothing; the first of a function documents it.
        const bool string =
            (kinds & DOCSTRING) && !leaf && (kinds_of[nodes[i + 1].symbol] & STRING) && nodes[i + 1].next == node.next;
        m.statements += !string;
        if (string && (parent.kinds & BLOCK) && frames_.size() > 1 && parent.index + 1 == i &&
            (frames_[frames_.size() - 2].kinds & FUNCTION) && parent.function != NONE) {
          functions_[parent.function].found.documented = true;
        }
      }
    }
    // 6. Parts of a function: its body, and its parameters, which only the first list counts.
    if (parent.function != NONE) {
      Open& open = functions_[parent.function];
      if (parent.kinds & FUNCTION) open.body |= (node.fields & CS_FIELD_BODY) || (kinds & BLOCK);
      // Before the body; the list that is the field `parameters` counts rather than another, such as Go's receiver.
      const bool field = (node.fields & CS_FIELD_PARAMETERS) != 0;
      if ((kinds & PARAMETERS) && !open.body && (!open.parameters_seen || (field && !open.parameters_field))) {
        open.parameters_seen = true;
        open.parameters_field = field;
        int64_t parameters = 0;
        for (uint32_t child = i + 1; child < node.next; child = nodes[child].next) {
          const Kinds part = kinds_of[nodes[child].symbol];
          // Not `*` and `/` of Python, and not C's (void).
          const bool sign = slice(nodes[child]).size() == 1 && !(part & IDENTIFIER) && nodes[child].next == child + 1;
          const bool none = slice(nodes[child]) == "void";
          parameters += (part & (NAMED | COMMENT | ATTRIBUTE)) == NAMED && !sign && !none;
        }
        open.found.parameters = parameters;
      } else if ((kinds & PARAMETER) && (parent.kinds & FUNCTION)) {
        ++open.found.parameters;
      }
    }
    // 7. A handler's block: does anything in it do something?
    if ((kinds & BLOCK) && (parent.kinds & CATCH) && !parent.block_seen) {
      parent.block_seen = true;
      parent.active = active;
    } else if ((kinds & NAMED) && !(kinds & (BLOCK | NOTHING))) {
      ++active;
    }
    // 8. Strings are one operand, whatever they are made of; code that is embedded counts for itself.
    if (kinds & STRING) {
      if (!parent.string) {
        ++m.operands;
        m.distinct_operands += operands_.add(hash_of(slice(node)));
      }
      frame.string = true;
    }
    if (kinds & EMBEDDED) frame.string = false;
    if (leaf) {
      if (!frame.string && node.end > node.start) {
        if (kinds & NAMED) {
          ++m.operands;
          m.distinct_operands += operands_.add(hash_of(slice(node)));
          if (kinds & NUMBER) {
            const std::string_view number = slice(node);
            const bool plain = number == "0" || number == "1" || number == "2";
            m.magic_constants += !plain && !frame.data && !(parent.kinds & (VARIABLE | PARAMETER | PARAMETERS));
          } else if (frame.role != NO_NAME && (kinds & IDENTIFIER)) {
            add_name(node, frame.role);
            if (frame.role == FUNCTION_NAME && parent.function != NONE &&
                functions_[parent.function].found.name.empty()) {
              functions_[parent.function].found.name = slice(node);
            }
          }
        } else if (!(kinds & CLOSER)) {
          ++m.operators;
          uint8_t& seen = seen_symbols_[same[node.symbol]];
          m.distinct_operators += !seen;
          seen = 1;
        }
      }
      ++i;
      continue;
    }
    // 9. Logical expressions that follow one another within parentheses are read as one.
    if (kinds & LOGICAL) {
      const uint32_t second = nodes[i + 1].next;
      if (second < node.next && (kinds_at(second) & (AND | OR))) {
        frame.logical = parent.logical == NONE ? static_cast<uint32_t>(frames_.size()) : parent.logical;
      }
    } else if (kinds & PARENTHESES) {
      frame.logical = parent.logical;
    }
    frames_.push_back(frame);
    ++i;
  }

  // Functions whose body is there; the others only declare.
  for (Open& open : functions_) {
    if (bodies_ && !open.body) continue;
    Function& found = open.found;
    found.line = line_of(found.start);
    found.lines = line_of(found.end > found.start ? found.end - 1 : found.end) - found.line + 1;
    ++m.functions;
    m.documented += found.documented;
    m.cyclomatic_sum += found.cyclomatic;
    m.cyclomatic_max = std::max(m.cyclomatic_max, found.cyclomatic);
    m.cognitive_sum += found.cognitive;
    m.cognitive_max = std::max(m.cognitive_max, found.cognitive);
    m.function_lines_max = std::max(m.function_lines_max, found.lines);
    m.parameters_max = std::max(m.parameters_max, found.parameters);
    if (functions) functions->push_back(found);
  }
  return m;
}

}  // namespace codeshell::syntax
