//! Which places of a region commands go to.

/// Numbers that look random: xorshift64, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next one, of 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next one below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// Each place of a region once: windows of places from its beginning to its end, shuffled inside.
///
/// A volume that is filled so has its chunks in no order, and no more than a window's pages of its map are being
/// changed at a time.
#[derive(Clone, Debug)]
pub struct Sweep {
    places: u64,
    window_places: u64,
    next: u64,
    window: Vec<u64>,
    random: Random,
}

impl Sweep {
    /// The places 0 to `places`.
    ///
    /// # Panics
    /// If a window has none.
    #[must_use]
    pub fn new(places: u64, window_places: u64, seed: u64) -> Self {
        assert!(window_places > 0, "a window of no places");
        Self { places, window_places, next: 0, window: Vec::new(), random: Random::new(seed) }
    }

    /// How many places there are.
    #[must_use]
    pub const fn places(&self) -> u64 {
        self.places
    }
}

impl Iterator for Sweep {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.window.is_empty() {
            let end = self.places.min(self.next + self.window_places);
            self.window.extend(self.next..end);
            self.next = end;
            for at in (1..self.window.len()).rev() {
                self.window.swap(at, self.random.below(at as u64 + 1) as usize);
            }
        }
        self.window.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_visits_each_place_once_window_by_window_in_the_order_of_its_seed() {
        for seed in [1, 2] {
            let places: Vec<u64> = Sweep::new(1000, 64, seed).collect();
            assert_eq!(places, Sweep::new(1000, 64, seed).collect::<Vec<_>>());
            assert!(places.iter().enumerate().any(|(at, place)| at as u64 != *place), "shuffled");
            for (number, window) in places.chunks(64).enumerate() {
                let mut sorted = window.to_vec();
                sorted.sort_unstable();
                let first = number as u64 * 64;
                assert_eq!(sorted, (first..first + window.len() as u64).collect::<Vec<_>>());
            }
        }
        assert!(Sweep::new(10, 1, 7).eq(0..10), "in order");
        assert_ne!(Sweep::new(99, 99, 1).collect::<Vec<_>>(), Sweep::new(99, 99, 3).collect::<Vec<_>>());
    }
}
