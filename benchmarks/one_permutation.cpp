// Speed and accuracy of sketches that read each shingle once, against the k minima of csrc/dedup/minhash.h.
// `one_permutation.py` builds and runs this program; it is not part of the package.
//
//   k-minima   MinHash::update
//   oph        one permutation hashing (Li, Owen, Zhang, NIPS 2012): a shingle lowers the minimum of one of k bins;
//              an empty bin takes the minimum of another bin, found by hashing (optimal densification, Shrivastava,
//              ICML 2017)
//   fss        Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup, FOCS 2017): the same, but while some bin is empty
//              all shingles are thrown again with another hash; from the k-th round, each round fills one bin
//
// All take the deduper's 64-bit shingle hashes, which are well mixed, and give k 32-bit lanes. The share of equal lanes
// estimates the Jaccard similarity. The output is JSON, one row per line.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "dedup/hash.h"
#include "dedup/minhash.h"
#include "dedup/shingles.h"
#include "dedup/texts.h"

namespace {

using namespace codeshell::dedup;
using codeshell::simd::Level;

constexpr size_t k = 126, bands = 21, rows = 6;
constexpr uint64_t empty = ~uint64_t{0};

using Lanes = std::array<uint32_t, k>;

// A bin holds round << 32 | value, so that any earlier round is lower.
struct Bins {
  std::array<uint64_t, k> values;
  size_t seen = 0;  // shingles of the first round

  void clear() {
    values.fill(empty);
    seen = 0;
  }

  bool full() const {
    bool some = false;
    for (const uint64_t value : values) some |= value == empty;
    return !some;
  }

  static size_t bin_of(uint64_t hash) { return static_cast<size_t>((hash >> 32) * k >> 32); }

  void lower(size_t bin, uint64_t value) { values[bin] = std::min(values[bin], value); }

  // While many shingles lower their bin, a branch on it would be mispredicted; later, a store would be for nothing.
  void first_round(const uint64_t* shingles, size_t count) {
    constexpr size_t often = 8 * k;
    size_t i = 0;
    for (; i < count && seen < often; ++i, ++seen) lower(bin_of(shingles[i]), shingles[i] & 0xFFFFFFFFu);
    for (; i < count; ++i) {
      const size_t bin = bin_of(shingles[i]);
      const uint64_t value = shingles[i] & 0xFFFFFFFFu;
      if (value < values[bin]) [[unlikely]]
        values[bin] = value;
    }
  }
};

uint64_t rehash(uint64_t shingle, uint64_t factor) {
  const uint64_t product = shingle * factor;
  return product ^ product >> 32;
}

// Rounds 1 and on, until no bin is empty.
void more_rounds(const uint64_t* shingles, size_t count, Bins& bins) {
  for (uint64_t round = 1; count && round < k && !bins.full(); ++round) {
    const uint64_t factor = mix64(round) | 1;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t hash = rehash(shingles[i], factor);
      bins.lower(Bins::bin_of(hash), round << 32 | (hash & 0xFFFFFFFFu));
    }
  }
  for (size_t bin = 0; count && bin < k; ++bin) {
    if (bins.values[bin] != empty) continue;
    const uint64_t round = k + bin, factor = mix64(round) | 1;
    for (size_t i = 0; i < count; ++i) bins.lower(bin, round << 32 | (rehash(shingles[i], factor) & 0xFFFFFFFFu));
  }
}

void lanes_of(const Bins& bins, uint32_t* lanes) {
  for (size_t i = 0; i < k; ++i) {
    lanes[i] = static_cast<uint32_t>(bins.values[i]) ^ static_cast<uint32_t>(bins.values[i] >> 32) * 0x9E3779B9u;
  }
}

// Where an empty bin looks, attempt by attempt: the same for every document, so the first ones are a table.
constexpr size_t table_attempts = 64;

size_t other_bin(size_t bin, uint64_t attempt) { return Bins::bin_of(mix64(bin << 32 | (attempt + 1))); }

const auto other_bins = [] {
  std::array<std::array<uint8_t, table_attempts>, k> table{};
  for (size_t bin = 0; bin < k; ++bin) {
    for (size_t attempt = 0; attempt < table_attempts; ++attempt) {
      table[bin][attempt] = static_cast<uint8_t>(other_bin(bin, attempt));
    }
  }
  return table;
}();

void densify(Bins& bins) {
  if (std::all_of(bins.values.begin(), bins.values.end(), [](uint64_t value) { return value == empty; })) return;
  std::array<uint64_t, k> dense = bins.values;
  for (size_t bin = 0; bin < k; ++bin) {
    for (size_t attempt = 0; dense[bin] == empty; ++attempt) {
      dense[bin] = bins.values[attempt < table_attempts ? other_bins[bin][attempt] : other_bin(bin, attempt)];
    }
  }
  bins.values = dense;
}

enum class Scheme { minima, oph, fss, none };
constexpr Scheme schemes[] = {Scheme::minima, Scheme::oph, Scheme::fss};

const char* name(Scheme scheme) {
  switch (scheme) {
    case Scheme::minima: return "k-minima";
    case Scheme::oph: return "oph";
    case Scheme::fss: return "fss";
    case Scheme::none: break;
  }
  return "shingles only";
}

const char* name(Level level) {
  return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : level == Level::neon ? "neon" : "scalar";
}

// Shingles or a text to lanes.
class Sketcher {
 public:
  Sketcher(Scheme scheme, Level level) : scheme_(scheme), level_(level) {}

  void sketch(const uint64_t* shingles, size_t count, uint32_t* lanes) {
    start();
    add(shingles, count);
    if (scheme_ == Scheme::fss) more_rounds(shingles, count, bins_);
    finish(lanes);
  }

  // Chunk by chunk, as sign.cpp does. A text of several chunks that leaves a bin empty, which takes much repetition, is
  // made into shingles again.
  void sketch(std::string_view text, uint32_t* lanes) {
    start();
    size_t chunks = 0, count = 0;
    for (ShingleStream stream(text, 5, level_, scratch_); !stream.done();) {
      count = stream.next(chunk_.data());
      chunks += count > 0;
      shingles += count;
      if (scheme_ != Scheme::none) add(chunk_.data(), count);
    }
    if (scheme_ == Scheme::fss && !bins_.full()) {
      if (chunks == 1 && count) {
        more_rounds(chunk_.data(), count, bins_);
      } else {
        make_shingles(text, Shingling{}, level_, scratch_);
        more_rounds(scratch_.shingles.data(), scratch_.shingles.size(), bins_);
      }
    }
    finish(lanes);
  }

  size_t shingles = 0;

 private:
  void start() {
    if (scheme_ == Scheme::minima) minima_.fill(~0u);
    bins_.clear();
  }

  void add(const uint64_t* values, size_t count) {
    if (scheme_ == Scheme::minima) {
      minhash_.update(values, count, level_, minima_.data());
    } else {
      bins_.first_round(values, count);
    }
  }

  void finish(uint32_t* lanes) {
    if (scheme_ == Scheme::minima) {
      std::copy_n(minima_.data(), k, lanes);
    } else {
      if (scheme_ == Scheme::oph && !bins_.full()) densify(bins_);
      lanes_of(bins_, lanes);
    }
  }

  const Scheme scheme_;
  const Level level_;
  const MinHash minhash_{k, 0};
  std::array<uint32_t, lane_block> minima_;
  Bins bins_;
  Scratch scratch_;
  std::vector<uint64_t> chunk_ = std::vector<uint64_t>(ShingleStream::max_shingles);
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Timing {
  double median, fastest, slowest;
};

// Of a work for every scheme, in turn, so that what disturbs one disturbs all.
std::vector<Timing> race(const std::vector<std::function<void()>>& works) {
  constexpr size_t repeats = 7;
  std::vector<std::vector<double>> seconds(works.size());
  for (const auto& work : works) work();
  for (size_t i = 0; i < repeats; ++i) {
    for (size_t w = 0; w < works.size(); ++w) seconds[w].push_back(seconds_of(works[w]));
  }
  std::vector<Timing> result;
  for (auto& all : seconds) {
    std::sort(all.begin(), all.end());
    result.push_back({all[repeats / 2], all.front(), all.back()});
  }
  return result;
}

uint32_t sink;  // what is computed must be used

void time_sketches(Level level) {
  // 2 MB: too many to be foretold by a branch predictor that has seen them, and read faster than they are used.
  constexpr size_t pool = size_t{1} << 18, passes = 4;
  std::vector<uint64_t> shingles(pool);
  for (size_t i = 0; i < pool; ++i) shingles[i] = mix64(i + 1);
  for (const size_t size : {50, 200, 1000, 10000}) {
    std::vector<std::function<void()>> works;
    const size_t documents = pool / size;
    for (const Scheme scheme : schemes) {
      works.push_back([&, scheme] {
        Sketcher sketcher(scheme, level);
        Lanes lanes;
        for (size_t pass = 0; pass < passes; ++pass) {
          for (size_t d = 0; d < documents; ++d) {
            sketcher.sketch(shingles.data() + d * size, size, lanes.data());
            sink += lanes[d % k];
          }
        }
      });
    }
    const auto timings = race(works);
    const double total = static_cast<double>(documents * size * passes) / 1e6;
    for (size_t i = 0; i < timings.size(); ++i) {
      std::printf(
          "{\"what\": \"sketch\", \"level\": \"%s\", \"scheme\": \"%s\", \"shingles\": %zu, \"Mshingles_s\": %.1f, "
          "\"slowest\": %.1f, \"fastest\": %.1f}\n",
          name(level), name(schemes[i]), size, total / timings[i].median, total / timings[i].slowest,
          total / timings[i].fastest);
    }
  }
}

// `what` is the size of the documents, in words.
void time_texts(Level level, const Texts& texts, const std::string& what) {
  constexpr Scheme all[] = {Scheme::none, Scheme::minima, Scheme::oph, Scheme::fss};
  std::vector<std::function<void()>> works;
  size_t shingles = 0;
  for (const Scheme scheme : all) {
    works.push_back([&, scheme] {
      Sketcher sketcher(scheme, level);
      Lanes lanes;
      for (size_t d = 0; d < texts.count; ++d) {
        sketcher.sketch(texts[d], lanes.data());
        sink += lanes[d % k];
      }
      shingles = sketcher.shingles;
    });
  }
  const auto timings = race(works);
  const double bytes = static_cast<double>(texts.offsets[texts.count] - texts.offsets[0]) / 1e6;
  for (size_t i = 0; i < timings.size(); ++i) {
    std::printf(
        "{\"what\": \"text\", \"level\": \"%s\", \"scheme\": \"%s\", \"documents\": \"%s\", \"count\": %zu, \"MB\": "
        "%.1f, \"shingles_per_document\": %.0f, \"MB_s\": %.0f, \"slowest\": %.0f, \"fastest\": %.0f}\n",
        name(level), name(all[i]), what.c_str(), texts.count, bytes,
        static_cast<double>(shingles) / static_cast<double>(texts.count), bytes / timings[i].median,
        bytes / timings[i].slowest, bytes / timings[i].fastest);
  }
}

// Pairs of random sets of `size` shingles: mean error and mean squared error of the estimate, and how many share a
// band.
void measure_accuracy(Level level, size_t size, double wanted, size_t trials) {
  const auto n = static_cast<double>(size);
  const auto shared = static_cast<size_t>(std::lround(2 * n * wanted / (1 + wanted)));
  const double jaccard = static_cast<double>(shared) / static_cast<double>(2 * size - shared);
  std::vector<uint64_t> all(2 * size - shared);
  for (const Scheme scheme : schemes) {
    Sketcher sketcher(scheme, level);
    double error = 0, square = 0, fourth = 0;
    size_t met = 0;
    for (size_t trial = 0; trial < trials; ++trial) {
      for (size_t i = 0; i < all.size(); ++i) all[i] = mix64(mix64(trial * 8 + size) + i);
      Lanes a, b;  // the sets are the first and the last `size` of `all`
      sketcher.sketch(all.data(), size, a.data());
      sketcher.sketch(all.data() + all.size() - size, size, b.data());
      size_t equal = 0;
      bool candidate = false;
      for (size_t band = 0; band < bands; ++band) {
        size_t same = 0;
        for (size_t r = 0; r < rows; ++r) same += a[band * rows + r] == b[band * rows + r];
        equal += same;
        candidate |= same == rows;
      }
      const double off = static_cast<double>(equal) / k - jaccard;
      error += off;
      square += off * off;
      fourth += off * off * off * off;
      met += candidate;
    }
    const auto t = static_cast<double>(trials);
    const double mean = error / t, mse = square / t;
    std::printf(
        "{\"what\": \"accuracy\", \"scheme\": \"%s\", \"shingles\": %zu, \"jaccard\": %.4f, \"trials\": %zu, \"bias\": "
        "%.5f, \"bias_error\": %.5f, \"mse\": %.6f, \"mse_error\": %.6f, \"mse_of_theory\": %.6f, \"candidate\": %.4f, "
        "\"candidate_of_theory\": %.4f}\n",
        name(scheme), size, jaccard, trials, mean, std::sqrt((mse - mean * mean) / t), mse,
        std::sqrt((fourth / t - mse * mse) / t), jaccard * (1 - jaccard) / k, static_cast<double>(met) / t,
        1 - std::pow(1 - std::pow(jaccard, rows), bands));
  }
}

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

// speed TEXT OFFSETS: the bytes of all documents, and count + 1 int64 offsets into them. accuracy TRIALS.
int main(int count, char** arguments) {
  const std::string task = count > 1 ? arguments[1] : "";
  const Level widest = codeshell::simd::level();
  if (task == "accuracy" && count == 3) {
    const size_t trials = std::strtoull(arguments[2], nullptr, 10);
    for (const size_t size : {20, 100, 1000}) {
      for (const double jaccard : {0.3, 0.5, 0.7, 0.8, 0.9}) measure_accuracy(widest, size, jaccard, trials);
    }
    return 0;
  }
  if (task != "speed" || count != 4) {
    std::fprintf(stderr, "one_permutation speed TEXT OFFSETS | accuracy TRIALS\n");
    return 2;
  }
  const std::string data = read_file(arguments[2]), raw = read_file(arguments[3]);
  std::vector<int64_t> offsets(raw.size() / sizeof(int64_t));
  std::memcpy(offsets.data(), raw.data(), offsets.size() * sizeof(int64_t));
  std::vector<Level> levels{widest};
  if (widest == Level::avx512) levels.push_back(Level::avx2);
  for (const Level level : levels) {
    time_sketches(level);
    time_texts(level, {data.data(), offsets.data(), offsets.size() - 1}, "files");
    Sketcher counter(Scheme::none, level);
    Lanes lanes;
    counter.sketch(std::string_view(data), lanes.data());
    const double bytes_a_shingle = static_cast<double>(data.size()) / static_cast<double>(counter.shingles);
    for (const size_t size : {50, 200, 1000, 10000}) {
      const auto step = static_cast<int64_t>(bytes_a_shingle * static_cast<double>(size + 4));
      std::vector<int64_t> cuts;
      const auto end = static_cast<int64_t>(std::min<size_t>(data.size(), 16'000'000));
      for (int64_t at = 0; at <= end; at += step) cuts.push_back(at);
      time_texts(level, {data.data(), cuts.data(), cuts.size() - 1}, std::to_string(size));
    }
  }
  std::fprintf(stderr, "%u\n", sink);
  return 0;
}
