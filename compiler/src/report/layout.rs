//! Places for the items of a picture: ranks from top to bottom, an order in each rank with few crossings, and columns
//! that follow what they are connected to (Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical
//! System Structures").

/// Rounds of ordering and of placing; more change nothing that one sees.
const ORDER_ROUNDS: usize = 12;
const COLUMN_ROUNDS: usize = 100;
/// Space between neighbours of a rank.
const GAP: f64 = 18.0;
/// The weight of a bend in placing, next to an item's 1: long lines stay straight.
const BEND_WEIGHT: f64 = 4.0;
/// The weight of the middle axis, next to a neighbour's 1: layers stay below each other.
const PULL: f64 = 0.3;

/// Something to place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sized {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Bands are below each other: no item of a band is beside one of another.
    pub(super) band: usize,
}

/// A place in a rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spot {
    /// The middle.
    pub(super) x: f64,
    /// Where the rank begins.
    pub(super) top: f64,
    /// Where its tallest item ends.
    pub(super) bottom: f64,
}

/// Where things are.
#[derive(Clone, Debug, Default)]
pub(super) struct Placed {
    /// The place of each item.
    pub(super) items: Vec<Spot>,
    /// Where each edge crosses ranks between its start and its end.
    pub(super) bends: Vec<Vec<Spot>>,
}

/// Places `items`, which come after the starts of the `edges` that end at them. `gap` is the space between two ranks, and
/// `band_gap` what is added between two bands.
pub(super) fn place(items: &[Sized], edges: &[(usize, usize)], gap: f64, band_gap: f64) -> Placed {
    let ranks = ranks(items, edges);
    let mut net = Net::new(items, edges, &ranks);
    net.order();
    net.columns();
    let mut heights = Vec::new();
    let (mut y, mut band) = (0.0, None);
    for rank in &net.ranks {
        let here = rank.iter().filter_map(|&knot| Some(items[net.knots[knot].item?].band)).max();
        if band.is_some() && here.is_some() && here != band {
            y += band_gap;
        }
        band = here.or(band);
        let height = rank.iter().map(|&knot| net.knots[knot].height).fold(0.0, f64::max);
        heights.push((y, y + height));
        y += height + gap;
    }
    let spot = |knot: usize| {
        let Knot { x, rank, .. } = net.knots[knot];
        let (top, bottom) = heights[rank];
        Spot { x, top, bottom }
    };
    Placed {
        items: (0..items.len()).map(spot).collect(),
        bends: net.bends.iter().map(|bends| bends.iter().map(|&knot| spot(knot)).collect()).collect(),
    }
}

/// The rank of each item: below everything that it reads and everything of the bands above, and what reads nothing just
/// above its first reader.
fn ranks(items: &[Sized], edges: &[(usize, usize)]) -> Vec<usize> {
    let mut ranks = vec![0usize; items.len()];
    let mut bands: Vec<usize> = items.iter().map(|item| item.band).collect();
    bands.sort_unstable();
    bands.dedup();
    let mut start = 0;
    for band in bands {
        let members: Vec<usize> = (0..items.len()).filter(|&item| items[item].band == band).collect();
        for &item in &members {
            let above = edges.iter().filter(|&&(from, to)| to == item && items[from].band == band);
            ranks[item] = above.map(|&(from, _)| ranks[from] + 1).max().unwrap_or(start);
        }
        for &item in &members {
            let reads = edges.iter().any(|&(_, to)| to == item);
            let readers = edges.iter().filter(|&&(from, to)| from == item && items[to].band == band);
            if let (false, Some(first)) = (reads, readers.map(|&(_, to)| ranks[to]).min()) {
                ranks[item] = first.saturating_sub(1);
            }
        }
        start = members.iter().map(|&item| ranks[item] + 1).max().unwrap_or(start);
    }
    ranks
}

/// An item, or the place where a long edge crosses a rank.
struct Knot {
    item: Option<usize>,
    rank: usize,
    width: f64,
    height: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

struct Net {
    /// Items first, in their order.
    knots: Vec<Knot>,
    /// The knots of each rank, from left to right.
    ranks: Vec<Vec<usize>>,
    /// The knots of each edge between its ends.
    bends: Vec<Vec<usize>>,
}

impl Net {
    fn new(items: &[Sized], edges: &[(usize, usize)], ranks: &[usize]) -> Self {
        let knot = |(item, sized): (usize, &Sized)| Knot {
            item: Some(item),
            rank: ranks[item],
            width: sized.width,
            height: sized.height,
            x: 0.0,
            above: Vec::new(),
            below: Vec::new(),
        };
        let mut knots: Vec<Knot> = items.iter().enumerate().map(knot).collect();
        let mut bends = Vec::with_capacity(edges.len());
        // What begins at one item stays together for as long as it goes down.
        let mut trunks: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
        for &(from, to) in edges {
            let trunk = &mut trunks[from];
            for rank in ranks[from] + 1 + trunk.len()..ranks[to] {
                let (bend, last) = (knots.len(), trunk.last().copied().unwrap_or(from));
                knots.push(Knot {
                    item: None,
                    rank,
                    width: 0.0,
                    height: 0.0,
                    x: 0.0,
                    above: vec![last],
                    below: Vec::new(),
                });
                knots[last].below.push(bend);
                trunk.push(bend);
            }
            let path = trunk[..(ranks[to] - ranks[from]).saturating_sub(1)].to_vec();
            let last = path.last().copied().unwrap_or(from);
            knots[last].below.push(to);
            knots[to].above.push(last);
            bends.push(path);
        }
        let count = knots.iter().map(|knot| knot.rank + 1).max().unwrap_or(0);
        let mut rows = vec![Vec::new(); count];
        for (index, knot) in knots.iter().enumerate() {
            rows[knot.rank].push(index);
        }
        Self { knots, ranks: rows, bends }
    }

    /// Orders each rank by the middle of its neighbours, from the top and from the bottom in turn.
    fn order(&mut self) {
        let mut place = vec![0.0; self.knots.len()];
        for round in 0..ORDER_ROUNDS {
            let down = round % 2 == 0;
            for step in 0..self.ranks.len() {
                let rank = if down { step } else { self.ranks.len() - 1 - step };
                let middle = |knot: usize| {
                    let Knot { above, below, .. } = &self.knots[knot];
                    let near = if down { above } else { below };
                    let sum: f64 = near.iter().map(|&other| place[other]).sum();
                    if near.is_empty() { place[knot] } else { sum / near.len() as f64 }
                };
                let mut row: Vec<(f64, usize)> =
                    self.ranks[rank].iter().map(|&knot| (middle(knot), knot)).collect();
                row.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.ranks[rank] = row.into_iter().map(|(_, knot)| knot).collect();
                for (i, &knot) in self.ranks[rank].iter().enumerate() {
                    place[knot] = i as f64 - (self.ranks[rank].len() as f64 - 1.0) / 2.0;
                }
            }
        }
    }

    /// Moves each rank as near to its neighbours as the order allows.
    fn columns(&mut self) {
        for round in 0..COLUMN_ROUNDS {
            for step in 0..self.ranks.len() {
                let rank = if round % 2 == 0 { step } else { self.ranks.len() - 1 - step };
                self.settle(rank);
            }
        }
        let left = self.knots.iter().map(|knot| knot.x - knot.width / 2.0).fold(f64::INFINITY, f64::min);
        self.knots.iter_mut().for_each(|knot| knot.x -= left);
    }

    /// The places of a rank with the least sum of squared distances from the middles of the neighbours: without the
    /// widths of what is to the left, an isotonic regression by pooling (Ayer et al.).
    fn settle(&mut self, rank: usize) {
        let row = &self.ranks[rank];
        let mut offsets = Vec::with_capacity(row.len());
        // Means and weights of pooled neighbours, and how many there are.
        let mut pools: Vec<(f64, f64, usize)> = Vec::new();
        let mut right = 0.0;
        for &knot in row {
            let Knot { item, width, x, above, below, .. } = &self.knots[knot];
            let offset = right + width / 2.0;
            right += width + GAP;
            offsets.push(offset);
            let near = above.iter().chain(below);
            let sum: f64 = near.clone().map(|&other| self.knots[other].x).sum();
            let count = near.count();
            let wanted = if count == 0 { *x } else { sum / (count as f64 + PULL) };
            let mut pool = (wanted - offset, if item.is_some() { 1.0 } else { BEND_WEIGHT }, 1);
            while let Some(&(mean, weight, size)) = pools.last().filter(|last| last.0 >= pool.0) {
                pools.pop();
                let total = weight + pool.1;
                pool = ((mean * weight + pool.0 * pool.1) / total, total, size + pool.2);
            }
            pools.push(pool);
        }
        let means = pools.iter().flat_map(|&(mean, _, size)| std::iter::repeat_n(mean, size));
        let places: Vec<(usize, f64)> =
            row.iter().zip(means.zip(offsets)).map(|(&knot, (mean, offset))| (knot, mean + offset)).collect();
        for (knot, x) in places {
            self.knots[knot].x = x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(width: f64, band: usize) -> Sized {
        Sized { width, height: 20.0, band }
    }

    #[test]
    fn what_reads_is_below_and_neighbours_do_not_overlap() {
        // A diamond with a long edge past it, then a second band.
        let items: Vec<Sized> =
            [(100.0, 0), (60.0, 0), (80.0, 0), (40.0, 0), (90.0, 1)].map(|(w, band)| sized(w, band)).into();
        let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4)];
        let placed = place(&items, &edges, 30.0, 50.0);
        for (edge, &(from, to)) in edges.iter().enumerate() {
            assert!(placed.items[from].top < placed.items[to].top);
            assert_eq!(placed.bends[edge].len(), usize::from(edge == 4));
        }
        let (left, right) = (placed.items[1], placed.items[2]);
        assert_eq!(left.top, right.top);
        assert!((left.x - right.x).abs() >= 70.0 + GAP - 1e-9);
        assert!(placed.items[4].top - placed.items[3].top > 20.0 + 30.0 + 49.0);
        assert!(placed.items.iter().zip(&items).all(|(spot, item)| spot.x >= item.width / 2.0 - 1e-9));
    }

    #[test]
    fn crossings_are_undone() {
        let items = [sized(10.0, 0); 4];
        let placed = place(&items, &[(0, 3), (1, 2)], 10.0, 0.0);
        let side = |a: usize, b: usize| placed.items[a].x < placed.items[b].x;
        assert_eq!(side(0, 1), side(3, 2));
    }

    #[test]
    fn what_reads_nothing_is_just_above_its_reader() {
        let items = [sized(10.0, 0); 4];
        assert_eq!(ranks(&items, &[(0, 1), (1, 2), (3, 2)]), [0, 1, 2, 1]);
    }

    #[test]
    fn long_edges_of_one_item_share_their_way() {
        let items: Vec<Sized> = (0..5).map(|_| sized(50.0, 0)).collect();
        let edges = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 3), (0, 4)];
        let bends = place(&items, &edges, 30.0, 50.0).bends;
        assert_eq!((bends[4].len(), bends[5].len()), (2, 3));
        assert_eq!(bends[4], bends[5][..2]);
    }
}
