// What the rules of secrets.cpp know by name: names of passwords and tokens, words of placeholders, top-level domains,
// and addresses that identify nobody.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace codeshell::text {

// Ends of names, in lower case and without _ - and dots.
inline constexpr std::array<std::string_view, 6> password_names = {"password",   "passwd",   "pwd",
                                                                   "passphrase", "passwort", "dbpass"};
inline constexpr std::array<std::string_view, 14> token_names = {
    "secret",     "token",       "apikey",        "accesskey",  "authkey",   "privatekey",  "secretkey",
    "credential", "credentials", "encryptionkey", "signingkey", "clientkey", "accesskeyid", "masterkey"};

// Words inside of values that nobody needs to hide, in lower case.
inline constexpr std::array<std::string_view, 29> placeholder_words = {
    "required", "example",     "changeme", "change_me", "change-me", "your",   "xxxx",    "****",
    "....",     "placeholder", "dummy",    "sample",    "redacted",  "<",      ">",       "{",
    "}",        "$(",          "%(",       "%s",        "todo",      "insert", "replace", "password",
    "passwd",   "secret",      "process.", "environ",   "getenv"};

// Country codes (ISO 3166 and the reserved ones in use), two letters each.
inline constexpr std::string_view country_codes =
    "acadaeafagaialamaoaqarasatauawaxazbabbbdbebfbgbhbibjbmbnbobrbsbtbwbybzcacccdcfcgchcickclcmcncocrcucvcwcxcyczdedjdk"
    "dm"
    "dodzeceeegereseteufifjfkfmfofrgagbgdgegfggghgiglgmgngpgqgrgsgtgugwgyhkhmhnhrhthuidieiliminioiqirisitjejmjojpkekgkh"
    "ki"
    "kmknkpkrkwkykzlalblclilklrlsltlulvlymamcmdmemgmhmkmlmmmnmompmqmrmsmtmumvmwmxmymznancnenfngninlnonpnrnunzompapepfpg"
    "ph"
    "pkplpmpnprpsptpwpyqarerorsrurwsasbscsdsesgshsiskslsmsnsosrssstsvsxsysztctdtftgthtjtktltmtntotrtttvtwtzuaugukusuyuz"
    "va"
    "vcvevgvivnvuwfwsyeytzazmzw";

inline constexpr std::array<std::string_view, 34> generic_domains = {
    "com",      "org",       "net",     "edu",    "gov",         "mil",     "int",   "info",   "biz",
    "name",     "pro",       "dev",     "app",    "tech",        "cloud",   "email", "online", "site",
    "xyz",      "store",     "shop",    "blog",   "live",        "systems", "group", "world",  "company",
    "software", "solutions", "digital", "agency", "engineering", "page",    "social"};

inline bool equal_folded(std::string_view a, std::string_view lower_b) {
  return a.size() == lower_b.size() && std::equal(a.begin(), a.end(), lower_b.begin(), [](char x, char y) {
           return (x >= 'A' && x <= 'Z' ? static_cast<char>(x | 32) : x) == y;
         });
}

// Whether a domain may end in this label. File names (a@2x.png) and members of objects (a@b.weight) do not.
inline bool is_top_level(std::string_view top) {
  if (top.size() == 2) {
    for (size_t i = 0; i + 1 < country_codes.size(); i += 2) {
      if (equal_folded(top, country_codes.substr(i, 2))) return true;
    }
    return false;
  }
  return std::any_of(generic_domains.begin(), generic_domains.end(),
                     [&](std::string_view known) { return equal_folded(top, known); });
}

// The domains of RFC 2606, and hosts below them: documentation uses them, and no mail arrives there.
inline bool is_reserved_domain(std::string_view domain) {
  for (const std::string_view known : {"example.com", "example.org", "example.net", "domain.com", "email.com"}) {
    if (domain.size() >= known.size() && equal_folded(domain.substr(domain.size() - known.size()), known) &&
        (domain.size() == known.size() || domain[domain.size() - known.size() - 1] == '.')) {
      return true;
    }
  }
  return false;
}

// Whether an address of version 4 may be that of one machine on the internet (RFC 6890), and is no well-known resolver.
inline bool is_public(const std::array<int, 4>& p) {
  const int a = p[0], b = p[1], c = p[2];
  if (a == 0 || a == 10 || a == 127 || a >= 224) return false;
  if ((a == 100 && b >= 64 && b < 128) || (a == 169 && b == 254) || (a == 172 && b >= 16 && b < 32)) return false;
  if ((a == 192 && b == 168) || (a == 192 && b == 0 && (c == 0 || c == 2)) || (a == 198 && (b == 18 || b == 19))) {
    return false;
  }
  if ((a == 198 && b == 51 && c == 100) || (a == 203 && b == 0 && c == 113)) return false;
  // Networks and versions end in 0; a host does not.
  if (p[3] == 0) return false;
  constexpr std::array<std::array<int, 4>, 7> known = {
      {{8, 8, 8, 8}, {8, 8, 4, 4}, {1, 1, 1, 1}, {1, 0, 0, 1}, {9, 9, 9, 9}, {1, 2, 3, 4}, {4, 3, 2, 1}}};
  return std::find(known.begin(), known.end(), p) == known.end();
}

}  // namespace codeshell::text
