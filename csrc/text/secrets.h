// Secrets and personal data in source code: keys with a known form, passwords and tokens that are assigned to a name
// that says so, private keys, e-mail addresses, public IP addresses. One pass over the bytes, without a regular
// expression; every rule looks at a bounded piece around the byte that calls it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace codeshell::text {

enum class Secret : uint8_t { key, password, private_key, email, ipv4, ipv6 };

// What a found piece counts as: the columns of the scorer.
enum class SecretKind : uint8_t { secrets, emails, addresses };

inline SecretKind kind_of(Secret what) {
  if (what == Secret::email) return SecretKind::emails;
  return what == Secret::ipv4 || what == Secret::ipv6 ? SecretKind::addresses : SecretKind::secrets;
}

// The bytes [begin, end) of a text. Of a private key, the body between its first and its last line.
struct SecretSpan {
  size_t begin;
  size_t end;
  Secret what;
};

// Appends what is found in a text, ascending, without overlaps. Texts need not be UTF-8.
// `everything` also finds what identifies nobody: addresses of private networks and of documentation (RFC 1918, 5737,
// 3849, ...), well-known resolvers, and e-mail addresses at the domains of RFC 2606 (example.com).
void find_secrets(std::string_view text, bool everything, std::vector<SecretSpan>& spans);

// What stands in the place of a piece: <KEY>, <PASSWORD>, <EMAIL>, <IP_ADDRESS>. None of them is found again.
std::string_view placeholder(Secret what);

// The text with a placeholder for every span whose kind is in `kinds` (bit 1 << SecretKind); appended to `out`.
void replace_secrets(std::string_view text, const std::vector<SecretSpan>& spans, unsigned kinds, std::string& out);

}  // namespace codeshell::text
