// Binary models of KenLM (format 5, probing hash tables), turned into model files of ours.
//
// What is known of the format, from reading KenLM's loader: a header, a hash table of the vocabulary, the unigrams by
// id, a hash table per order of (64-bit key, probability, backoff), and the words of the vocabulary in the order of
// their ids. The tables hold keys and no words; our keys (csrc/ngram/key.h) are made the same way, so entries can be
// taken over, and no such file can become ARPA again.
#pragma once

#include <cstdint>
#include <string>

#include "ngram/model.h"
#include "ngram/writer.h"

namespace codeshell::ngram {

// Whether a file begins as KenLM's binaries do.
bool is_kenlm(std::string_view beginning);

// Writes the model in `path` to `output`. Throws ModelError for a kind or version that is not read and for a file that
// is cut short or damaged, and std::system_error.
void convert_kenlm(const std::string& path, const std::string& output, const std::string& metadata,
                   WriterOptions options);

}  // namespace codeshell::ngram
