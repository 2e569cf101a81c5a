#include "ngram/trainer.h"

#include <bit>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "ngram/estimate.h"

namespace codeshell::ngram {

namespace {

// What the limit of memory is for, in parts of it: buffers of sorts a half, spools a quarter, merges an eighth. The rest
// is for what is small: text in work, arrays by id, tails of spools.
constexpr size_t sort_part = 2, spool_part = 4, merge_part = 8;
constexpr size_t block_bytes = 64 << 10;

template <class Key>
using Spools = std::vector<std::unique_ptr<Spool<Key>>>;

template <class Record>
std::vector<Segment<Record>> segments_of(const Spools<Record>& spools) {
  std::vector<Segment<Record>> segments;
  for (const auto& spool : spools) {
    if (spool) segments.push_back(whole(*spool));
  }
  return segments;
}

template <class Key>
class TrainerOf final : public Trainer {
 public:
  TrainerOf(std::shared_ptr<const Units> units, const TrainOptions& options, Packing packing)
      : units_(std::move(units)),
        options_(options),
        packing_(packing),
        storage_(options.folder, options.memory / spool_part),
        threads_(options.threads),
        fan_(std::max<size_t>(8, options.memory / merge_part / block_bytes / options.threads)) {
    const size_t capacity = options_.memory / sort_part / (2 * sizeof(Key) * threads_);
    for (unsigned i = 0; i < threads_; ++i) {
      counters_.push_back(std::make_unique<CountBuffer<Key>>(storage_, packing_, capacity));
    }
  }

  bool add(const dedup::Texts& texts, const dedup::Stop& stop) override {
    std::atomic<uint64_t> tokens{0};
    std::atomic<size_t> slots{0};
    const bool whole = dedup::share(texts.count, 16, threads_, stop, [&] {
      return [&, counter = counters_[slots++].get(), ids = std::vector<uint32_t>()](size_t begin, size_t end) mutable {
        for (size_t i = begin; i < end; ++i) {
          ids.clear();
          units_->encode(texts[i], ids);
          counter->add(ids.data(), ids.size());
          tokens += ids.size() + 1;
        }
      };
    });
    documents_ += texts.count;
    tokens_ += tokens;
    return whole;
  }

  bool add(const uint32_t* ids, const int64_t* offsets, size_t documents, const dedup::Stop& stop) override {
    std::atomic<size_t> slots{0};
    for (int64_t i = offsets[0]; i < offsets[documents]; ++i) {
      if (ids[i] < first_id || ids[i] >= units_->size()) {
        throw std::invalid_argument("ids: " + std::to_string(ids[i]) + " is no unit: give 3 to " +
                                    std::to_string(units_->size() - 1));
      }
    }
    const bool whole = dedup::share(documents, 16, threads_, stop, [&] {
      return [&, counter = counters_[slots++].get()](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
          counter->add(ids + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i]));
        }
      };
    });
    documents_ += documents;
    tokens_ += static_cast<uint64_t>(offsets[documents] - offsets[0]) + documents;
    return whole;
  }

  std::vector<OrderSummary> estimate(const dedup::Stop& stop) override {
    if (!adjust(stop)) return {};
    for (int n = 1; n <= packing_.order; ++n) set_discounts(summaries_[at(n)]);
    unigrams();
    for (int n = 2; n <= packing_.order; ++n) {
      if (!contexts(n, stop)) return {};
    }
    return {summaries_.begin() + 1, summaries_.begin() + 1 + packing_.order};
  }

  bool emit(Sink& sink, const dedup::Stop& stop) override {
    emit_unigrams(sink);
    std::unique_ptr<Spool<Probability<Key>>> shorter;
    for (int n = 2; n <= packing_.order; ++n) {
      auto these = std::make_unique<Spool<Probability<Key>>>(storage_);
      if (!join(n, shorter.get(), *these, sink, stop)) return false;
      shorter = std::move(these);
    }
    return true;
  }

  uint64_t spilled() const override { return storage_.spilled; }

 private:
  static size_t at(int n) { return static_cast<size_t>(n); }

  // Merges the first segments until few enough are left to be read at once. Keys are summed where they are counts.
  template <class Record>
  bool reduce(std::vector<Segment<Record>>& segments, Spools<Record>& owners, const dedup::Stop& stop) {
    while (segments.size() > fan_) {
      if (stop && stop()) return false;
      const auto end = segments.begin() + static_cast<std::ptrdiff_t>(std::min(fan_, segments.size() - fan_ + 1));
      const std::vector<Segment<Record>> first(segments.begin(), end);
      owners.push_back(std::make_unique<Spool<Record>>(storage_));
      for (Merge<Record> merge(first); !merge.done(); merge.next()) owners.back()->append(*merge);
      segments.erase(segments.begin(), end);
      segments.push_back(whole(*owners.back()));
    }
    return true;
  }

  // Step 2. Each part has all n-grams with some last words, so that no part needs another.
  bool adjust(const dedup::Stop& stop) {
    std::vector<Segment<Counted<Key>>> segments;
    Spools<Counted<Key>> merged;
    for (auto& counter : counters_) {
      counter->finish();
      counter->add_segments(segments);
    }
    if (!reduce(segments, merged, stop)) return false;
    const auto cuts = cut_keys(segments, parts(), packing_.total() - packing_.bits);
    std::vector<std::unique_ptr<Adjuster<Key>>> adjusters(cuts.size());
    unigram_counts_.assign(units_->size(), 0);
    const bool done = dedup::share(cuts.size(), 1, threads_, stop, [&] {
      return [&](size_t part, size_t) {
        auto adjuster = std::make_unique<Adjuster<Key>>(packing_, options_.prune, unigram_counts_, storage_);
        for (Sums<Key> sums(take_range(segments, cuts, part)); !sums.done(); sums.next()) adjuster->add(*sums);
        adjuster->finish();
        adjusters[part] = std::move(adjuster);
      };
    });
    if (!done) return false;
    counters_.clear();
    // The parts, one after another, are each order in suffix order.
    for (auto& adjuster : adjusters) {
      for (int n = 1; n <= packing_.order; ++n) {
        OrderSummary& to = summaries_[at(n)];
        const OrderSummary& from = adjuster->summaries[at(n)];
        to.ngrams += from.ngrams;
        to.kept += from.kept;
        for (size_t i = 0; i < to.with_count.size(); ++i) to.with_count[i] += from.with_count[i];
        if (n > 1) counts_[at(n)].push_back(std::move(adjuster->spools[at(n)]));
      }
    }
    // <unk> and <s> are words that nothing was counted of.
    for (uint64_t* count : {&summaries_[1].ngrams, &summaries_[1].kept, &summaries_[1].with_count[0]}) *count += 2;
    return true;
  }

  // Order 1: its context is empty, and what it leaves goes to all words alike, <unk> among them and <s> not.
  void unigrams() {
    Remainder all;
    for (const uint64_t count : unigram_counts_) {
      if (count) all.add(count);
    }
    const OrderSummary& summary = summaries_[1];
    const double unknown = all.share(summary) / static_cast<double>(summary.ngrams - 1);
    unigram_values_.assign(unigram_counts_.size(), unknown);
    for (size_t id = 0; id < unigram_counts_.size(); ++id) {
      const uint64_t count = unigram_counts_[id];
      if (count) unigram_values_[id] += (static_cast<double>(count) - discount_of(summary, count)) / all.total();
    }
    unigram_values_[begin_id] = 1;
  }

  // Step 4, for order n: sorts by context, and gives own shares (back in suffix order) and the contexts' backoffs.
  bool contexts(int n, const dedup::Stop& stop) {
    const unsigned bits = packing_.bits, total = bits * static_cast<unsigned>(n);
    std::vector<std::unique_ptr<RunSorter<Counted<Key>>>> sorters;
    std::mutex making;
    const auto sorter = [&](auto& list, unsigned low, unsigned high) {
      using Sorter = typename std::remove_reference_t<decltype(list)>::value_type::element_type;
      const size_t capacity = options_.memory / sort_part / (2 * sizeof(Counted<Key>) * threads_);
      const std::lock_guard lock(making);
      list.push_back(std::make_unique<Sorter>(storage_, std::max<size_t>(capacity, 4096), low, high));
      return list.back().get();
    };
    // Parts are taken in ascending order, so that the last words of what a thread pushes ascend.
    auto& counts = counts_[at(n)];
    bool done = dedup::share(counts.size(), 1, threads_, stop, [&] {
      return [&, to = sorter(sorters, bits, total)](size_t part, size_t) {
        for (Reader<Counted<Key>> in(whole(*counts[part])); !in.done(); in.next()) {
          to->push({to_context_order(in->key, n, bits), in->count});
        }
        counts[part].reset();
      };
    });
    if (!done) return false;
    std::vector<Segment<Counted<Key>>> segments;
    Spools<Counted<Key>> merged;
    for (auto& one : sorters) {
      one->finish();
      one->add_segments(segments);
    }
    if (!reduce(segments, merged, stop)) return false;

    const auto cuts = cut_keys(segments, parts(), bits);
    backoffs_[at(n - 1)].resize(cuts.size());
    done = dedup::share(cuts.size(), 1, threads_, stop, [&] {
      return [&, to = sorter(weights_[at(n)], total - bits, total)](size_t part, size_t) {
        auto backoffs = std::make_unique<Spool<Backoff<Key>>>(storage_);
        std::vector<Counted<Key>> group;
        for (Merge<Counted<Key>> merge(take_range(segments, cuts, part)); !merge.done();) {
          // All n-grams with one context.
          const Key context = (*merge).key >> bits;
          Remainder remainder;
          for (group.clear(); !merge.done() && (*merge).key >> bits == context; merge.next()) {
            group.push_back(*merge);
            remainder.add((*merge).count);
          }
          const double share = remainder.share(summaries_[at(n)]);
          backoffs->append({context, static_cast<float>(share)});
          for (const Counted<Key>& one : group) {
            if (one.count & pruned_mark) continue;
            const double own = static_cast<double>(one.count) - discount_of(summaries_[at(n)], one.count);
            to->push({to_suffix_order(one.key, n, bits), static_cast<float>(own / remainder.total()),
                      static_cast<float>(share)});
          }
        }
        backoffs_[at(n - 1)][part] = std::move(backoffs);
      };
    });
    for (auto& one : weights_[at(n)]) one->finish();
    return done;
  }

  // The logarithm of the backoff of a context that comes after those asked for before; 0 for what is no context.
  static float backoff(Chain<Backoff<Key>>& chain, Key key) {
    while (!chain.done() && (*chain).key < key) chain.next();
    if (chain.done() || (*chain).key != key) return 0;
    return std::log10((*chain).rest);
  }

  void emit_unigrams(Sink& sink) {
    Chain<Backoff<Key>> backoffs(segments_of(backoffs_[1]));
    for (uint32_t id = 0; id < unigram_counts_.size(); ++id) {
      const bool seen = id <= end_id || unigram_counts_[id];
      const float probability = std::log10(static_cast<float>(unigram_values_[id]));
      sink.add(1, &id, seen, std::min(probability, 0.0f), backoff(backoffs, id));
    }
  }

  // Step 5, for order n: p = own + rest · p of the n-gram without its first word, which comes in the same order.
  bool join(int n, const Spool<Probability<Key>>* shorter, Spool<Probability<Key>>& these, Sink& sink,
            const dedup::Stop& stop) {
    std::vector<Segment<Weighted<Key>>> segments;
    Spools<Weighted<Key>> merged;
    for (auto& one : weights_[at(n)]) one->add_segments(segments);
    if (!reduce(segments, merged, stop)) return false;
    Chain<Backoff<Key>> backoffs(segments_of(backoffs_[at(n)]));
    std::unique_ptr<Reader<Probability<Key>>> parents;
    if (shorter) parents = std::make_unique<Reader<Probability<Key>>>(whole(*shorter));
    const unsigned bits = packing_.bits;
    std::array<uint32_t, max_trained_order> words{};
    uint32_t turns = 0;
    for (Merge<Weighted<Key>> merge(segments); !merge.done(); merge.next()) {
      if (stop && !(++turns & 0xFFFFF) && stop()) return false;
      const Weighted<Key>& now = *merge;
      const Key suffix = now.key >> bits;
      double parent;
      if (n == 2) {
        parent = unigram_values_[static_cast<size_t>(suffix)];
      } else {
        // Pruning keeps the shorter n-gram of each that it keeps, because that occurs as often at least.
        while (parents->operator*().key < suffix) parents->next();
        parent = (*parents)->value;
      }
      const double value = static_cast<double>(now.own) + static_cast<double>(now.rest) * parent;
      if (n < packing_.order) these.append({now.key, value});
      unpack(now.key, n, bits, words.data());
      sink.add(n, words.data(), true, std::min(std::log10(static_cast<float>(value)), 0.0f),
               backoff(backoffs, now.key));
    }
    weights_[at(n)].clear();
    backoffs_[at(n)].clear();
    return true;
  }

  // More parts than threads, so that the threads end at about the same time; and between parts, `stop` is asked.
  size_t parts() const { return 16 * threads_; }

  std::shared_ptr<const Units> units_;
  TrainOptions options_;
  Packing packing_;
  Storage storage_;
  unsigned threads_;
  size_t fan_;  // segments that are read at once
  std::vector<std::unique_ptr<CountBuffer<Key>>> counters_;
  std::array<OrderSummary, max_trained_order + 1> summaries_{};
  std::vector<uint64_t> unigram_counts_;
  std::vector<double> unigram_values_;
  // By order.
  std::array<Spools<Counted<Key>>, max_trained_order + 1> counts_;
  std::array<std::vector<std::unique_ptr<RunSorter<Weighted<Key>>>>, max_trained_order + 1> weights_;
  std::array<Spools<Backoff<Key>>, max_trained_order + 1> backoffs_;
};

}  // namespace

std::unique_ptr<Trainer> Trainer::make(std::shared_ptr<const Units> units, const TrainOptions& options) {
  if (options.order < 1 || options.order > max_trained_order) throw std::invalid_argument("order: give 1 to 6");
  if (options.threads < 1) throw std::invalid_argument("threads: give 1 or more");
  if (units->size() < 2) throw std::invalid_argument("units: none");
  TrainOptions whole = options;
  // Pruning by what is not given is pruning by the last that is.
  while (whole.prune.size() < static_cast<size_t>(options.order)) {
    whole.prune.push_back(whole.prune.empty() ? 0 : whole.prune.back());
  }
  if (whole.prune[0] || !std::is_sorted(whole.prune.begin(), whole.prune.end())) {
    throw std::invalid_argument("prune: give a number for each order that does not fall, the first 0");
  }
  const Packing packing{options.order, static_cast<unsigned>(std::bit_width(units->size() - 1))};
  if (packing.total() <= 64) return std::make_unique<TrainerOf<uint64_t>>(std::move(units), whole, packing);
  if (packing.total() <= 128) return std::make_unique<TrainerOf<Wide>>(std::move(units), whole, packing);
  throw std::invalid_argument("units: " + std::to_string(units->size()) + " are too many for order " +
                              std::to_string(options.order) + ": give fewer, or a lower order");
}

}  // namespace codeshell::ngram
