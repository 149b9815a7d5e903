//! Bitmaps of chunks that find a free one, or a free extent, fast.

/// Chunks that an aligned extent takes; a word of the bitmap has four of these.
const GROUP: u32 = 16;
const GROUPS: u32 = 64 / GROUP;
const GROUP_MASK: u64 = (1 << GROUP) - 1;

/// Sets (or clears) bits `start..start + count` and returns how many changed.
pub(super) fn set_bits(words: &mut [u64], start: u32, count: u32, on: bool) -> u32 {
    let mut changed = 0;
    for (word, mask) in masks(start, count) {
        let old = words[word];
        let new = if on { old | mask } else { old & !mask };
        changed += (old ^ new).count_ones();
        words[word] = new;
    }
    changed
}

/// How many of the bits `start..start + count` are set.
pub(super) fn count_bits(words: &[u64], start: u32, count: u32) -> u32 {
    masks(start, count).map(|(word, mask)| (words[word] & mask).count_ones()).sum()
}

/// The words that hold bits `start..start + count`, each with a mask of them.
pub(crate) fn masks(start: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (u64::from(start), u64::from(start) + u64::from(count));
    (start / 64..end.div_ceil(64)).filter(move |_| count > 0).map(move |word| {
        let low = start.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        (word as usize, (!0 >> (64 - (high - low))) << low)
    })
}

/// Flags that find the next one that is clear in a few steps, however many are set: a bit of a level is set when all 64
/// below it are.
#[derive(Clone, Debug)]
struct Summary {
    levels: Vec<Vec<u64>>,
}

impl Summary {
    /// `len` flags, all clear; those beyond the end are set.
    fn new(len: usize) -> Self {
        let mut levels = Vec::new();
        let mut bits = len;
        loop {
            let words = bits.div_ceil(64).max(1);
            let mut level = vec![0_u64; words];
            if bits % 64 != 0 || bits == 0 {
                level[words - 1] = !0 << (bits % 64);
            }
            levels.push(level);
            if words == 1 {
                return Self { levels };
            }
            bits = words;
        }
    }

    fn set(&mut self, mut index: usize, mut on: bool) {
        for level in &mut self.levels {
            let (word, bit) = (index / 64, 1 << (index % 64));
            let before = level[word];
            level[word] = if on { before | bit } else { before & !bit };
            if (before == !0) == (level[word] == !0) {
                return;
            }
            (index, on) = (word, level[word] == !0);
        }
    }

    /// The first clear flag from `from` on.
    fn next_clear(&self, from: usize) -> Option<usize> {
        let (mut level, mut index) = (0, from);
        loop {
            let word = index / 64;
            let clear = !self.levels.get(level)?.get(word)? & (!0 << (index % 64));
            if clear != 0 {
                index = word * 64 + clear.trailing_zeros() as usize;
                break;
            }
            index = word + 1;
            level += 1;
        }
        while level > 0 {
            level -= 1;
            index = index * 64 + (!self.levels[level][index]).trailing_zeros() as usize;
        }
        Some(index)
    }
}

/// A disk's chunks, taken or not.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    words: Vec<u64>,
    chunks: u32,
    taken: u32,
    /// Words all of whose chunks are taken.
    full: Summary,
    /// Words without a free aligned extent.
    broken: Summary,
}

impl Taken {
    /// `chunks` chunks, none taken.
    pub(super) fn new(chunks: u32) -> Self {
        let words = vec![0; chunks.div_ceil(64) as usize];
        let (full, broken) = (Summary::new(words.len()), Summary::new(words.len()));
        let mut all = Self { words, chunks, taken: 0, full, broken };
        if chunks % 64 != 0 {
            // What is beyond the end is never free.
            let last = all.words.len() - 1;
            all.words[last] = !0 << (chunks % 64);
            all.summarise(last);
        }
        all
    }

    /// From word `first` on a chunk is taken where a bit is set, and only there; bits beyond the end are clear.
    pub(super) fn load(&mut self, first: usize, bits: &[u64]) {
        for (word, bits) in (first..).zip(bits) {
            let beyond = self.beyond(word);
            let (old, new) = (self.words[word], bits | beyond);
            if old != new {
                self.taken = self.taken - (old & !beyond).count_ones() + bits.count_ones();
                self.words[word] = new;
                self.summarise(word);
            }
        }
    }

    /// The bits of a word that are beyond the end.
    const fn beyond(&self, word: usize) -> u64 {
        if word as u32 == self.chunks / 64 { !0 << (self.chunks % 64) } else { 0 }
    }

    pub(super) const fn free(&self) -> u32 {
        self.chunks - self.taken
    }

    /// Takes chunks, or lets them go; returns how many changed.
    pub(super) fn set(&mut self, start: u32, count: u32, on: bool) -> u32 {
        let changed = set_bits(&mut self.words, start, count, on);
        self.taken = if on { self.taken + changed } else { self.taken - changed };
        for (word, _) in masks(start, count) {
            self.summarise(word);
        }
        changed
    }

    fn summarise(&mut self, word: usize) {
        self.full.set(word, self.words[word] == !0);
        self.broken.set(word, (0..GROUPS).all(|group| self.words[word] >> (group * GROUP) & GROUP_MASK != 0));
    }

    /// The first free chunk from `from` on.
    pub(super) fn next_free(&self, from: u32) -> Option<u32> {
        let word = (from / 64) as usize;
        let here = !self.words.get(word)? & (!0 << (from % 64));
        if here != 0 {
            return Some(word as u32 * 64 + here.trailing_zeros());
        }
        let word = self.full.next_clear(word + 1)?;
        Some(word as u32 * 64 + self.words[word].trailing_ones())
    }

    /// The first free aligned extent from `from` on.
    pub(super) fn next_free_extent(&self, from: u32) -> Option<u32> {
        let from = u32::try_from(u64::from(from).next_multiple_of(u64::from(GROUP))).ok()?;
        let group_of = |word: usize, first: u32| {
            let free = |group: &u32| self.words[word] >> (group * GROUP) & GROUP_MASK == 0;
            (first..GROUPS).find(free).map(|group| word as u32 * 64 + group * GROUP)
        };
        let word = (from / 64) as usize;
        if word >= self.words.len() {
            return None;
        }
        group_of(word, from % 64 / GROUP).or_else(|| group_of(self.broken.next_clear(word + 1)?, 0))
    }

    /// How many chunks are free in a row from `start` on, `max` at the most.
    pub(super) fn free_len(&self, start: u32, max: u32) -> u32 {
        let end = (u64::from(start) + u64::from(max)).min(u64::from(self.chunks));
        let mut at = u64::from(start);
        while at < end {
            let rest = self.words[(at / 64) as usize] >> (at % 64);
            let free = u64::from(rest.trailing_zeros()).min(64 - at % 64);
            at += free;
            if at % 64 != 0 || free == 0 {
                break;
            }
        }
        (at.min(end) - u64::from(start)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::memory::lcg;

    #[test]
    fn finding_agrees_with_looking_at_every_bit() {
        for (seed, chunks) in [(1, 64), (2, 100), (3, 5000), (4, 300_000), (5, 1), (6, 4096)] {
            let mut draw = lcg(seed);
            let mut taken = Taken::new(chunks);
            let mut plain = vec![false; chunks as usize];
            for _ in 0..200 {
                let start = draw(u64::from(chunks)) as u32;
                let count = 1 + draw(u64::from(chunks - start)) as u32;
                let on = draw(3) != 0;
                let changed = plain[start as usize..(start + count) as usize].iter().filter(|bit| **bit != on).count();
                plain[start as usize..(start + count) as usize].fill(on);
                assert_eq!(taken.set(start, count, on) as usize, changed, "seed {seed}");
                let from = draw(u64::from(chunks)) as u32;
                let free = (from..chunks).find(|chunk| !plain[*chunk as usize]);
                assert_eq!(taken.next_free(from), free, "seed {seed}");
                let extent = (from.next_multiple_of(16)..chunks.saturating_sub(15))
                    .step_by(16)
                    .find(|at| plain[*at as usize..*at as usize + 16].iter().all(|bit| !bit));
                assert_eq!(taken.next_free_extent(from), extent, "seed {seed}");
                let max = 1 + draw(300) as u32;
                let len = plain[from as usize..].iter().take(max as usize).take_while(|bit| !**bit).count();
                assert_eq!(taken.free_len(from, max) as usize, len, "seed {seed}");
                assert_eq!(taken.free() as usize, plain.iter().filter(|bit| !**bit).count());
                assert_eq!(count_bits(&taken.words, start, count), if on { count } else { 0 });
                let mut loaded = Taken::new(chunks);
                loaded.set(start, count, !on);
                let mut bits = taken.words.clone();
                let last = bits.len() - 1;
                bits[last] &= !taken.beyond(last);
                loaded.load(0, &bits);
                assert_eq!((&loaded.words, loaded.taken), (&taken.words, taken.taken), "seed {seed}");
                assert_eq!((&loaded.full.levels, &loaded.broken.levels), (&taken.full.levels, &taken.broken.levels));
            }
        }
    }
}
