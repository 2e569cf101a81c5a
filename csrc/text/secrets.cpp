// The main loop steps over the text by words. A word start may begin a key, a digit an address, '@' an e-mail address,
// '=' or ':' an assignment, '-' a private key. All other bytes cost one look into a table.
//
// Bounds: no rule looks further back than `back_bytes` or further on than `block_bytes`, and after a find the loop
// continues at its end, so the time is linear even on text that was made to be slow.
#include "text/secrets.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "text/secret_names.h"

namespace codeshell::text {

namespace {

constexpr size_t back_bytes = 96;         // how far before an '@' or '=' its beginning may lie
constexpr size_t value_bytes = 256;       // the longest value of an assignment
constexpr size_t block_bytes = 16 << 10;  // the longest body of a private key
constexpr size_t key_bytes = 512;         // the longest key; a token of JSON may be longer and is then cut into pieces

enum Class : uint8_t { other, word, at, assign, dash };

constexpr bool is_digit(uint8_t c) { return static_cast<uint8_t>(c - '0') < 10; }
constexpr bool is_letter(uint8_t c) { return static_cast<uint8_t>((c | 32) - 'a') < 26; }
constexpr bool is_word(uint8_t c) { return is_digit(c) || is_letter(c) || c == '_'; }
constexpr bool is_hex(uint8_t c) { return is_digit(c) || static_cast<uint8_t>((c | 32) - 'a') < 6; }
constexpr bool is_upper(uint8_t c) { return static_cast<uint8_t>(c - 'A') < 26; }
constexpr bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }
constexpr bool is_quote(uint8_t c) { return c == '"' || c == '\'' || c == '`'; }

constexpr std::array<uint8_t, 256> classes = [] {
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) table[c] = is_word(static_cast<uint8_t>(c)) ? word : other;
  table['@'] = at;
  table['='] = table[':'] = assign;
  table['-'] = dash;
  return table;
}();

// Sets of bytes that keys are made of.
constexpr bool alphanumeric(uint8_t c) { return is_digit(c) || is_letter(c); }
constexpr bool url_base64(uint8_t c) { return is_word(c) || c == '-'; }
constexpr bool base64(uint8_t c) { return alphanumeric(c) || c == '+' || c == '/' || c == '='; }
constexpr bool lower_hex(uint8_t c) { return is_digit(c) || static_cast<uint8_t>(c - 'a') < 6; }
constexpr bool upper_digit(uint8_t c) { return is_digit(c) || is_upper(c); }

uint8_t lower(uint8_t c) { return is_upper(c) ? c | 32 : c; }

// Shannon's entropy of the bytes, in bits per byte.
double entropy(std::string_view value) {
  std::array<uint16_t, 256> counts{};
  for (const char c : value) ++counts[static_cast<uint8_t>(c)];
  double sum = 0;
  for (const uint16_t count : counts) {
    if (count) sum += count * std::log2(static_cast<double>(count));
  }
  const double size = static_cast<double>(value.size());
  return std::log2(size) - sum / size;
}

class Finder {
 public:
  Finder(std::string_view text, bool everything, std::vector<SecretSpan>& spans)
      : text_(text), everything_(everything), spans_(spans) {}

  void run() {
    const size_t size = text_.size();
    size_t i = 0;
    while (i < size) {
      const uint8_t kind = classes[byte(i)];
      if (kind == other) {
        ++i;
      } else if (kind == word) {
        size_t end = i + 1;
        while (end < size && classes[byte(end)] == word) ++end;
        const size_t found = is_digit(byte(i)) ? address(i, end) : key(i, end);
        i = found ? found : end;
      } else {
        const size_t found = kind == at ? email(i) : kind == assign ? assignment(i) : private_key(i);
        i = found ? found : i + 1;
      }
    }
  }

 private:
  uint8_t byte(size_t i) const { return static_cast<uint8_t>(text_[i]); }
  // The byte at i, or a blank beyond the ends.
  uint8_t peek(size_t i) const { return i < text_.size() ? byte(i) : ' '; }
  uint8_t before(size_t i) const { return i > floor_ ? byte(i - 1) : ' '; }
  bool starts(size_t i, std::string_view prefix) const { return text_.substr(i, prefix.size()) == prefix; }

  template <typename Set>
  size_t run_of(size_t i, Set in_set, size_t most = key_bytes) const {
    const size_t stop = std::min(text_.size(), i + most);
    size_t end = i;
    while (end < stop && in_set(byte(end))) ++end;
    return end - i;
  }

  // Records a span and returns where the loop continues. Nothing before that is looked at again.
  size_t take(size_t begin, size_t end, Secret what) {
    spans_.push_back({begin, end, what});
    return floor_ = end;
  }

  // --- Keys with a known form, by the word [begin, end) that they begin with. 0 for none.

  // A prefix and then `least` to `most` bytes of a set, and no further byte of it.
  template <typename Set>
  size_t form(size_t begin, std::string_view prefix, Set in_set, size_t least, size_t most) {
    if (!starts(begin, prefix)) return 0;
    const size_t body = begin + prefix.size();
    const size_t length = run_of(body, in_set, most + 1);
    if (length < least || length > most) return 0;
    // Documentation writes keys of one letter, and AWS's end in EXAMPLE.
    const std::string_view value = text_.substr(body, length);
    if (value.ends_with("EXAMPLE") || value.ends_with("EXAMPLEKEY") || entropy(value) < 2.5) return 0;
    return take(begin, body + length, Secret::key);
  }

  size_t key(size_t begin, size_t end) {
    if (end - begin < 2) return 0;
    const auto any = [](auto... found) {
      size_t result = 0;
      ((result = result ? result : found()), ...);
      return result;
    };
    const auto prefixed = [&](std::string_view prefix, auto in_set, size_t least, size_t most) {
      return [=, this] { return form(begin, prefix, in_set, least, most); };
    };
    switch (byte(begin)) {
      case 'A':  // AWS access keys, Google API keys
        return any(prefixed("AKIA", upper_digit, 16, 16), prefixed("ASIA", upper_digit, 16, 16),
                   prefixed("ABIA", upper_digit, 16, 16), prefixed("ACCA", upper_digit, 16, 16),
                   prefixed("AIza", url_base64, 35, 35));
      case 'G':  // Google OAuth
        return form(begin, "GOCSPX-", url_base64, 20, 40);
      case 'S':  // SendGrid, Twilio
        return any([&] { return send_grid(begin); }, prefixed("SK", lower_hex, 32, 32));
      case 'd':  // DigitalOcean
        return any(prefixed("dop_v1_", lower_hex, 64, 64), prefixed("doo_v1_", lower_hex, 64, 64),
                   prefixed("dor_v1_", lower_hex, 64, 64));
      case 'e': return web_token(begin);
      case 'g':  // GitHub, GitLab
        if (end - begin > 4 && byte(begin + 1) == 'h' && byte(begin + 3) == '_' &&
            std::strchr("pousr", byte(begin + 2))) {
          return form(begin, text_.substr(begin, 4), alphanumeric, 36, 251);
        }
        return any(prefixed("github_pat_", is_word, 60, 244), prefixed("glpat-", url_base64, 20, 64));
      case 'h':  // Hugging Face, Slack's incoming hooks
        return any(prefixed("hf_", alphanumeric, 30, 64), [&] { return slack_hook(begin); });
      case 'n': return form(begin, "npm_", alphanumeric, 36, 36);
      case 'p': return form(begin, "pypi-AgEIcHlwaS5vcmc", url_base64, 50, 400);
      case 'r': return any(prefixed("rk_live_", alphanumeric, 16, 247), prefixed("rk_test_", alphanumeric, 16, 247));
      case 's':  // Stripe, and the form that model providers share
        return any(prefixed("sk_live_", alphanumeric, 16, 247), prefixed("sk_test_", alphanumeric, 16, 247),
                   [&] { return provider_key(begin); });
      case 'w': return form(begin, "whsec_", base64, 24, 100);
      case 'x':  // Slack
        if (starts(begin, "xox") && peek(begin + 4) == '-' && std::strchr("abeoprs", peek(begin + 3))) {
          return form(begin, text_.substr(begin, 5), url_base64, 20, 250);
        }
        return form(begin, "xapp-", url_base64, 20, 250);
      case 'y': return form(begin, "ya29.", url_base64, 20, 400);
      default:
        // An address of version 6 may begin with a letter; only in private networks does it.
        return everything_ && end - begin == 4 && peek(end) == ':' ? address6(begin) : 0;
    }
  }

  size_t send_grid(size_t begin) {
    if (!starts(begin, "SG.")) return 0;
    const size_t first = run_of(begin + 3, url_base64, 33);
    if (first < 16 || peek(begin + 3 + first) != '.') return 0;
    const size_t second = run_of(begin + 4 + first, url_base64, 65);
    return second < 32 ? 0 : take(begin, begin + 4 + first + second, Secret::key);
  }

  // A JSON Web Token: three parts, the first two of which are JSON objects in base64.
  size_t web_token(size_t begin) {
    if (!starts(begin, "eyJ")) return 0;
    size_t end = begin + run_of(begin, url_base64, 4 * key_bytes);
    if (end - begin < 12 || peek(end) != '.' || !starts(end + 1, "eyJ")) return 0;
    ++end;
    end += run_of(end, url_base64, 16 * key_bytes);
    if (peek(end) != '.') return 0;
    const size_t signature = run_of(end + 1, url_base64, 4 * key_bytes);
    return signature < 16 ? 0 : take(begin, end + 1 + signature, Secret::key);
  }

  size_t slack_hook(size_t begin) {
    constexpr std::string_view prefix = "hooks.slack.com/services/";
    if (!starts(begin, prefix)) return 0;
    const size_t body = begin + prefix.size();
    const size_t length = run_of(body, [](uint8_t c) { return alphanumeric(c) || c == '/'; }, 100);
    const std::string_view value = text_.substr(body, length);
    if (length < 40 || entropy(value) < 3.5) return 0;
    return take(body, body + length, Secret::key);
  }

  // sk-..., sk-proj-..., sk-ant-...: CSS classes begin like that too, so digits and capitals must be there.
  size_t provider_key(size_t begin) {
    if (!starts(begin, "sk-")) return 0;
    const size_t length = run_of(begin + 3, url_base64, 250);
    const std::string_view value = text_.substr(begin + 3, length);
    const bool random = std::any_of(value.begin(), value.end(), is_digit) &&
                        std::any_of(value.begin(), value.end(), is_upper) && entropy(value) >= 3.8;
    return length >= 32 && random ? take(begin, begin + 3 + length, Secret::key) : 0;
  }

  // --- Private keys: the body between the lines BEGIN and END, as PEM, or inside a string with \n and quotes.

  size_t private_key(size_t i) {
    constexpr std::string_view head = "-----BEGIN ", tail = "-----END ";
    if (!starts(i, head)) return 0;
    const size_t line = run_of(i + head.size(), [](uint8_t c) { return upper_digit(c) || c == ' '; }, 64);
    const std::string_view label = text_.substr(i + head.size(), line);
    const size_t body = i + head.size() + line + 5;
    if (label.find("PRIVATE KEY") == std::string_view::npos || !starts(body - 5, "-----")) return 0;
    // Without the last line, the key was cut off: all that could be its body is taken.
    const std::string_view rest = text_.substr(body, block_bytes);
    size_t length = rest.find("-----");
    if (length == std::string_view::npos || !rest.substr(length).starts_with(tail)) {
      const auto in_body = [](uint8_t c) { return base64(c) || c == '\n' || c == '\r'; };
      length = run_of(body, in_body, block_bytes);
      // The last line must be of the body as a whole.
      if (length < rest.size()) length = rest.substr(0, length).find_last_of("\r\n") + 1;
    }
    // Code that only looks for such a line has no body.
    const std::string_view inside = rest.substr(0, length);
    if (std::count_if(inside.begin(), inside.end(), base64) < 64) return 0;
    size_t from = body, to = body + length;
    while (from < to && (byte(from) == '\n' || byte(from) == '\r')) ++from;
    while (to > from && (byte(to - 1) == '\n' || byte(to - 1) == '\r')) --to;
    return take(from, to, Secret::private_key);
  }

  // --- E-mail addresses around an '@'.

  size_t email(size_t i) {
    if (i == no_email_) return 0;
    const auto local = [](uint8_t c) { return is_word(c) || c == '.' || c == '+' || c == '-' || c == '%'; };
    const size_t stop = std::max(floor_, i > 64 ? i - 64 : 0);
    size_t begin = i;
    while (begin > stop && local(byte(begin - 1))) --begin;
    while (begin < i && !alphanumeric(byte(begin)) && byte(begin) != '_') ++begin;
    if (begin == i || byte(i - 1) == '.') return 0;
    // The domain: labels with dots between them, the last of letters.
    size_t end = i + 1, labels = 0, last = end;
    for (;;) {
      const size_t length = run_of(end, [](uint8_t c) { return alphanumeric(c) || c == '-'; }, 64);
      if (length == 0 || length > 63 || byte(end) == '-') break;
      ++labels;
      last = end;
      end += length;
      if (peek(end) != '.' || !alphanumeric(peek(end + 1)) || end - i > 253) break;
      ++end;
    }
    const std::string_view domain = text_.substr(i + 1, end - i - 1), top = text_.substr(last, end - last);
    if (labels < 2 || !is_top_level(top)) return 0;
    // A call or an index follows a product of matrices (a@b.to(c)), and a word would continue the name.
    const uint8_t next = peek(end);
    if (next == '(' || next == '[' || next == '_') return 0;
    // The user of a remote (git@github.com:...) is nobody.
    const std::string_view name = text_.substr(begin, i - begin);
    if (name == "git" || (!everything_ && is_reserved_domain(domain))) return 0;
    return take(begin, end, Secret::email);
  }

  // --- Addresses that begin with the digits [begin, end).

  size_t address(size_t begin, size_t end) {
    if (end - begin == 4 && peek(end) == ':') return address6(begin);
    return end - begin <= 3 && peek(end) == '.' ? address4(begin) : 0;
  }

  size_t address4(size_t begin) {
    const uint8_t previous = before(begin);
    if (previous == '.' || previous == '-' || previous == '+' || previous == '^' || previous == '~') return 0;
    std::array<int, 4> parts{};
    size_t i = begin;
    for (int part = 0; part < 4; ++part) {
      const size_t length = run_of(i, is_digit, 4);
      if (length == 0 || length > 3 || (length > 1 && byte(i) == '0')) return 0;
      for (size_t k = 0; k < length; ++k) parts[part] = 10 * parts[part] + (byte(i + k) - '0');
      if (parts[part] > 255) return 0;
      i += length;
      if (part < 3 && peek(i++) != '.') return 0;
    }
    // A fifth part, or a name that continues: a version, an OID, a file.
    if (is_word(peek(i)) || peek(i) == '-' || (peek(i) == '.' && is_word(peek(i + 1)))) return 0;
    if (!everything_ && !is_public(parts)) return 0;
    // Four single digits, and the attributes of X.500 (2.5.4.11, 2.5.29.19), are numbers of versions, sections and objects.
    const bool numbering = i - begin == 7 || (parts[0] == 2 && parts[1] == 5 && (parts[2] == 4 || parts[2] == 29));
    if (numbering && is_public(parts)) return 0;
    return is_version(begin) ? 0 : take(begin, i, Secret::ipv4);
  }

  // Whether the line says before this place that a version follows, or pins one (name==1.2.3.4).
  bool is_version(size_t begin) const {
    size_t from = begin;
    while (from > floor_ && begin - from < 32 && byte(from - 1) != '\n') --from;
    std::string line(text_.substr(from, begin - from));
    std::transform(line.begin(), line.end(), line.begin(), [](char c) { return static_cast<char>(lower(c)); });
    for (const std::string_view note :
         {"version", "release", "section", ",v ", "revision", "ver.", "ver ", "oid", "==", ">=", "<=", "~="}) {
      if (line.find(note) != std::string::npos) return true;
    }
    return line.ends_with(" v") || line.ends_with("<") || line.ends_with("> ");
  }

  // Version 6: eight groups, or fewer with one "::". Public ones begin with 2 or 3 and four digits, which a name in
  // C++ (a::b) or a time never does.
  size_t address6(size_t begin) {
    const uint8_t previous = before(begin);
    if (previous == ':' || previous == '.' || previous == '-') return 0;
    const uint8_t first = lower(byte(begin)), second = lower(peek(begin + 1));
    const bool global = first == '2' || first == '3';
    const bool local = first == 'f' && (second == 'c' || second == 'd' || second == 'e');
    if (!global && !(everything_ && local)) return 0;
    int groups = 0, digits = 0;
    bool gap = false;
    size_t i = begin;
    for (;;) {
      const size_t length = run_of(i, is_hex, 5);
      if (length > 4) return 0;
      if (length == 0) break;  // the address ends in "::"
      ++groups;
      digits += static_cast<int>(length);
      i += length;
      if (peek(i) != ':') break;
      if (peek(i + 1) == ':') {
        if (gap) return 0;
        gap = true;
        i += 2;
      } else if (is_hex(peek(i + 1))) {
        ++i;
      } else {
        break;
      }
    }
    if (is_word(peek(i)) || peek(i) == ':' || (peek(i) == '.' && is_word(peek(i + 1)))) return 0;
    if (groups > 8 || (gap ? groups > 7 || groups < 2 : groups != 8) || digits < 6) return 0;
    const std::string_view value = text_.substr(begin, i - begin);
    const bool documentation = value.starts_with("2001:db8:") || value.starts_with("2001:DB8:") ||
                               value.starts_with("2001:0db8:") || value.starts_with("3fff:");
    return documentation && !everything_ ? 0 : take(begin, i, Secret::ipv6);
  }

  // --- Values that are assigned to a name such as password or api_key, and passwords in URLs.

  size_t assignment(size_t i) {
    if (byte(i) == ':' && starts(i, "://")) return url_password(i);
    // The value: after = == := => : and blanks, in quotes (with a prefix such as b or r before them) or bare.
    size_t value = i + 1;
    if (peek(value) == '=' || peek(value) == '>') ++value;
    const size_t blanks = run_of(value, is_blank, 8);
    value += blanks;
    if (is_letter(peek(value)) && is_quote(peek(value + 1))) ++value;
    const bool quoted = is_quote(peek(value));
    if (!quoted && !alphanumeric(peek(value))) return 0;
    const Named named = name_before(i);
    if (named == Named::nothing) return 0;
    if (!quoted) return bare_value(value, i);
    const uint8_t quote = byte(value++);
    const size_t length = run_of(value, [=](uint8_t c) { return c != quote && c != '\n'; }, value_bytes);
    if (peek(value + length) != quote) return 0;
    const std::string_view content = text_.substr(value, length);
    const bool secret = named == Named::password ? is_password(content) : is_token(content, 3.0);
    return secret ? take(value, value + length, Secret::password) : 0;
  }

  // A value without quotes, as in .env files and YAML: it must look random, and be the end of its line.
  size_t bare_value(size_t value, size_t i) {
    const size_t length = run_of(value, [](uint8_t c) { return base64(c) || c == '_' || c == '-'; }, value_bytes);
    const uint8_t next = peek(value + length);
    const bool ends = next == '\n' || next == '\r' || value + length == text_.size() || is_blank(next);
    if (!ends || byte(i) == ' ') return 0;
    const std::string_view content = text_.substr(value, length);
    if (std::count_if(content.begin(), content.end(), is_digit) < 3 || !is_token(content, 3.4)) return 0;
    return take(value, value + length, Secret::password);
  }

  // scheme://user:password@host
  size_t url_password(size_t i) {
    const auto part = [](uint8_t c) {
      return is_word(c) || c == '-' || c == '.' || c == '%' || c == '!' || c == '$' || c == '*' || c == '+' || c == '~';
    };
    const size_t user = i + 3, colon = user + run_of(user, part, 64);
    if (colon == user || peek(colon) != ':') return 0;
    const size_t begin = colon + 1, length = run_of(begin, part, 128);
    if (peek(begin + length) != '@' || !alphanumeric(peek(begin + length + 1))) return 0;
    no_email_ = begin + length;
    return is_password(text_.substr(begin, length)) ? take(begin, begin + length, Secret::password) : 0;
  }

  enum class Named : uint8_t { nothing, password, token };

  // What the name before an assignment at i says that its value is.
  Named name_before(size_t i) const {
    const size_t stop = std::max(floor_, i > back_bytes ? i - back_bytes : 0);
    const auto skip_blanks = [&](size_t end) {
      while (end > stop && is_blank(byte(end - 1))) --end;
      return end;
    };
    size_t end = skip_blanks(i);
    if (end > stop && byte(i) == '=' && (byte(end - 1) == ':' || byte(end - 1) == '=')) end = skip_blanks(end - 1);
    for (int attempt = 0; attempt < 2; ++attempt) {
      // "name", 'name'], name
      for (int closing = 0; closing < 2 && end > stop && (is_quote(byte(end - 1)) || byte(end - 1) == ']'); ++closing)
        --end;
      size_t begin = end;
      while (begin > stop && (url_base64(byte(begin - 1)) || byte(begin - 1) == '.')) --begin;
      const std::string_view name = text_.substr(begin, end - begin);
      // PublicKeyToken, public_api_key: nobody hides these.
      if (contains_folded(name, "public")) return Named::nothing;
      if (has_name(name, password_names)) return Named::password;
      if (has_name(name, token_names)) return Named::token;
      // password: str = "...": the name before the type.
      const size_t colon = skip_blanks(begin);
      if (begin == end || colon == stop || byte(colon - 1) != ':') break;
      end = skip_blanks(colon - 1);
    }
    return Named::nothing;
  }

  static bool contains_folded(std::string_view name, std::string_view part) {
    for (size_t i = 0; i + part.size() <= name.size(); ++i) {
      if (equal_folded(name.substr(i, part.size()), part)) return true;
    }
    return false;
  }

  template <size_t Count>
  static bool has_name(std::string_view name, const std::array<std::string_view, Count>& names) {
    std::array<char, back_bytes> folded;
    size_t size = 0;
    for (const char c : name) {
      if (c != '_' && c != '-' && c != '.') folded[size++] = static_cast<char>(lower(static_cast<uint8_t>(c)));
    }
    // The name ends with it: user_password is one, and password_field is not.
    const std::string_view plain(folded.data(), size);
    for (const std::string_view known : names) {
      if (plain.ends_with(known)) return true;
    }
    return false;
  }

  // A value that a person would set as a password: no blanks, more than a word, no placeholder.
  static bool is_password(std::string_view value) {
    if (value.size() < 6 || value.size() > 128 || is_placeholder(value)) return false;
    int digits = 0, marks = 0, capitals = 0, letters = 0;
    for (const char c : value) {
      const auto b = static_cast<uint8_t>(c);
      if (b <= ' ' || b == '\\') return false;
      digits += is_digit(b);
      capitals += is_upper(b);
      letters += is_letter(b);
      // Marks that names, paths and selectors have count for nothing.
      marks += b < 128 && !alphanumeric(b) && !std::strchr("_-./:", b);
    }
    // Words alone are labels and keys of tables (new_password, Password.Required).
    if (digits == 0 && marks == 0) return false;
    if (letters == 0 && marks == 0 && value.size() < 8) return false;
    return entropy(value) >= 2.2 && (digits + marks + capitals >= 2);
  }

  // A value that looks random: one long word with letters and digits.
  static bool is_token(std::string_view value, double least) {
    if (value.size() < 16 || is_placeholder(value)) return false;
    int digits = 0, letters = 0;
    for (const char c : value) {
      const auto b = static_cast<uint8_t>(c);
      if (!base64(b) && !std::strchr("_-.~:!#$%^&*", b)) return false;
      digits += is_digit(b);
      letters += is_letter(b);
    }
    return digits >= 2 && letters >= 2 && entropy(value) >= least;
  }

  static bool is_placeholder(std::string_view value) {
    std::string plain(value);
    std::transform(plain.begin(), plain.end(), plain.begin(), [](char c) { return static_cast<char>(lower(c)); });
    for (const std::string_view note : placeholder_words) {
      if (plain.find(note) != std::string::npos) return true;
    }
    // $_POST[...], "$user", and the pieces of a concatenation between two strings ('" + name + "').
    const bool variable = plain.size() > 1 && plain[0] == '$' && is_word(static_cast<uint8_t>(plain[1]));
    const auto first = static_cast<uint8_t>(plain[0]), last = static_cast<uint8_t>(plain.back());
    if (variable || is_quote(first) || is_quote(last)) return true;
    return plain.starts_with("1234") || plain.starts_with("http") || plain.starts_with('/') || plain.starts_with('.');
  }

  std::string_view text_;
  bool everything_;
  std::vector<SecretSpan>& spans_;
  size_t floor_ = 0;     // the end of the last find
  size_t no_email_ = 0;  // the '@' before the host of a URL (none is at 0)
};

}  // namespace

void find_secrets(std::string_view text, bool everything, std::vector<SecretSpan>& spans) {
  Finder(text, everything, spans).run();
}

std::string_view placeholder(Secret what) {
  switch (what) {
    case Secret::email: return "<EMAIL>";
    case Secret::ipv4:
    case Secret::ipv6: return "<IP_ADDRESS>";
    case Secret::password: return "<PASSWORD>";
    default: return "<KEY>";
  }
}

void replace_secrets(std::string_view text, const std::vector<SecretSpan>& spans, unsigned kinds, std::string& out) {
  size_t at = 0;
  for (const SecretSpan& span : spans) {
    if (!(kinds >> static_cast<unsigned>(kind_of(span.what)) & 1)) continue;
    out.append(text.substr(at, span.begin - at));
    out.append(placeholder(span.what));
    at = span.end;
  }
  out.append(text.substr(at));
}

}  // namespace codeshell::text
