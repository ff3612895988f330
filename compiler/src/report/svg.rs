//! Graphs as pictures that a browser shows: one picture, no script, no other file. Layers that are alike are drawn once.

use std::fmt::Write;

use llamac_ir::Graph;

use super::layout::{Placed, Sized, Spot, place};
use super::picture::{Group, Item, Kind, Picture};

const LINE: f64 = 15.0;
/// The width of a letter of the monospaced font at its size.
const LETTER: f64 = 6.7;
const PADDING: f64 = 8.0;
const RANK_GAP: f64 = 30.0;
/// Space around a layer, its title included.
const FRAME: f64 = 16.0;
const TITLE: f64 = 20.0;
const MARGIN: f64 = 24.0;
/// Longer lines are cut; the whole text is shown under the pointer.
const LONGEST: usize = 46;

const STYLE: &str = "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1f2937;text-anchor:middle}\
.t{font-weight:700}.d{fill:#6b7280}.f{text-anchor:start;font-weight:700;fill:#475569}\
rect{stroke:#94a3b8;fill:#fff}.frame{fill:#f1f5f9;stroke:#cbd5e1;stroke-dasharray:5 4}\
.param rect{fill:#ecfdf5;stroke:#6ee7b7}.result rect{fill:#eff6ff;stroke:#93c5fd}\
.m rect{fill:#fffbeb;stroke:#fcd34d}path{fill:none;stroke:#64748b}marker path{fill:#64748b;stroke:none}";

/// `graph` as SVG.
pub fn svg(graph: &Graph) -> String {
    let picture = Picture::new(graph).folded();
    let lines: Vec<Vec<String>> = picture.items.iter().map(|item| lines(&picture, item)).collect();
    let bands = bands(&picture);
    let sizes: Vec<Sized> = lines.iter().zip(bands).map(|(lines, band)| size(lines, band)).collect();
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for (to, item) in picture.items.iter().enumerate() {
        edges.extend(item.inputs.iter().map(|&(from, _)| (from, to)));
    }
    // One line for all that an item reads of another.
    edges.sort_unstable();
    edges.dedup();
    let placed = place(&sizes, &edges, RANK_GAP, 2.0 * FRAME + TITLE);
    let frames: Vec<Frame> = (0..picture.groups.len())
        .filter_map(|group| Frame::around(&picture, group, &sizes, &placed))
        .collect();
    let ends = placed.items.iter().zip(&sizes).map(|(spot, size)| (spot.x + size.width / 2.0, spot.bottom));
    let bends = placed.bends.iter().flatten().map(|spot| (spot.x, spot.bottom));
    let (width, height) = ends
        .chain(bends)
        .chain(frames.iter().map(|frame| (frame.right, frame.bottom)))
        .fold((0f64, 0f64), |(w, h), (x, y)| (w.max(x), h.max(y)));
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"{:.0} {:.0} \
         {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n<defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" \
         refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n",
        -MARGIN, -MARGIN
    );
    for (frame, group) in frames.iter().zip(&picture.groups) {
        frame.draw(&mut text, group);
    }
    for (&(from, to), bends) in edges.iter().zip(&placed.bends) {
        let (start, end) = (placed.items[from], placed.items[to]);
        let path = path(start, start.top + sizes[from].height, bends, end);
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "<path d=\"{path}\" marker-end=\"url(#a)\"/>");
    }
    for (index, item) in picture.items.iter().enumerate() {
        draw(&mut text, item, &lines[index], placed.items[index], sizes[index]);
    }
    text.push_str("</svg>\n");
    text
}

/// What is written in an item: its title, its weights without the name of its layer, its types.
fn lines(picture: &Picture, item: &Item) -> Vec<String> {
    let layer = item.group.map(|group| {
        let Group { prefix, first, .. } = &picture.groups[group];
        format!("{prefix}{first}.")
    });
    let short = |text: &String| match &layer {
        Some(layer) => text.replace(layer, ""),
        None => text.clone(),
    };
    let weights = item.weights.iter().map(short);
    let attrs = (!item.attrs.is_empty()).then(|| item.attrs.clone());
    let all = std::iter::once(item.title.clone()).chain(weights).chain(attrs).chain(types(&item.types));
    all.map(|line| cut(&line)).collect()
}

/// The types of several results, those that follow each other and are equal as one: `f32[batch, seq, 64] × 2`.
fn types(types: &[String]) -> impl Iterator<Item = String> {
    types.chunk_by(|a, b| a == b).map(|alike| match alike.len() {
        1 => alike[0].clone(),
        count => format!("{} \u{d7} {count}", alike[0]),
    })
}

fn cut(line: &str) -> String {
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST - 1).chain(['\u{2026}']).collect()
}

fn size(lines: &[String], band: usize) -> Sized {
    let letters = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let width = letters as f64 * LETTER + 2.0 * PADDING;
    Sized { width, height: lines.len() as f64 * LINE + PADDING, band }
}

/// Layers have odd bands, and what is between them the even ones.
fn bands(picture: &Picture) -> Vec<usize> {
    let mut bands: Vec<usize> = Vec::with_capacity(picture.items.len());
    for item in &picture.items {
        let above = item.inputs.iter().filter_map(|&(from, _)| bands.get(from)).max().copied().unwrap_or(0);
        bands.push(item.group.map_or(above + above % 2, |group| 2 * group + 1));
    }
    bands
}

/// A line from `bottom` of one item to the top of another, straight through ranks and smooth between them.
fn path(start: Spot, bottom: f64, bends: &[Spot], end: Spot) -> String {
    let mut text = format!("M{:.1} {bottom:.1}V{:.1}", start.x, start.bottom);
    let mut last = start;
    for (i, spot) in bends.iter().chain([&end]).enumerate() {
        let middle = f64::midpoint(last.bottom, spot.top);
        let _ = write!(
            text,
            "C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {:.1}",
            last.x, spot.x, spot.x, spot.top
        );
        if i < bends.len() {
            let _ = write!(text, "V{:.1}", spot.bottom);
        }
        last = *spot;
    }
    text
}

/// The border of a layer.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    fn around(picture: &Picture, group: usize, sizes: &[Sized], placed: &Placed) -> Option<Self> {
        let members = (0..picture.items.len()).filter(|&item| picture.items[item].group == Some(group));
        let edges = members.map(|item| {
            let (Spot { x, top, .. }, size) = (placed.items[item], sizes[item]);
            (x - size.width / 2.0, top, x + size.width / 2.0, top + size.height)
        });
        let all = edges.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1), a.2.max(b.2), a.3.max(b.3)))?;
        Some(Self {
            left: all.0 - FRAME,
            top: all.1 - FRAME - TITLE,
            right: all.2 + FRAME,
            bottom: all.3 + FRAME,
        })
    }

    fn draw(&self, text: &mut String, group: &Group) {
        let Self { left, top, right, bottom } = self;
        let (width, height) = (right - left, bottom - top);
        let _ = writeln!(
            text,
            "<rect class=\"frame\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"10\"/>\
             <text class=\"f\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + 10.0,
            top + 16.0,
            escaped(&group.title())
        );
    }
}

fn draw(text: &mut String, item: &Item, lines: &[String], spot: Spot, size: Sized) {
    let Spot { x, top: y, .. } = spot;
    let class = match item.kind {
        Kind::Param => "param",
        Kind::Result => "result",
        Kind::Op if item.stored => "m",
        Kind::Op => "o",
    };
    let tip: Vec<&str> = [&item.title, &item.loc, &item.signature]
        .into_iter()
        .chain(&item.weights)
        .chain([&item.attrs])
        .chain(&item.types)
        .map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect();
    let _ = write!(
        text,
        "<g class=\"{class}\"><title>{}</title><rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"6\"/>",
        escaped(&tip.join("\n")),
        x - size.width / 2.0,
        size.width,
        size.height
    );
    for (i, line) in lines.iter().enumerate() {
        let class = if i == 0 { "t" } else { "d" };
        let baseline = y + PADDING / 2.0 + LINE * (i as f64 + 0.75);
        let _ =
            write!(text, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{baseline:.1}\">{}</text>", escaped(line));
    }
    text.push_str("</g>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
