//! The pictures: SVG by `plotters`, whose colours are then those of the page's style sheet, so
//! that they follow the reader's theme.

use crate::record::{Law, Row, curves, size};
use plotters::{
    prelude::{
        ChartBuilder, Circle, Color as _, EmptyElement, IntoDrawingArea as _, IntoFont as _,
        IntoLogRange as _, LineSeries, PathElement, RGBColor, Rectangle, SVGBackend, Text,
    },
    style::{ShapeStyle, TextStyle},
};
use std::collections::BTreeMap;

/// A picture, what it is called, and what it shows.
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) explains: String,
    pub(super) svg: String,
}

impl Plot {
    /// What its file is called.
    pub(super) fn file(&self) -> String {
        let words = self.title.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        words.join("-") + ".svg"
    }

    /// With a style sheet of its own, for where there is no page around it.
    pub(super) fn alone(&self, colours: &str) -> String {
        let ground = "<rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>";
        let font = "text { font-family: system-ui, sans-serif; }";
        self.svg.replacen('>', &format!(">\n<style>\n{colours}{font}\n</style>\n{ground}"), 1)
    }
}

const WIDTH: u32 = 760;
const HEIGHT: u32 = 420;

/// Colours that stand for those of the style sheet.
const PLACEHOLDERS: [(RGBColor, &str); 9] = [
    (RGBColor(1, 0, 0), "var(--c0)"),
    (RGBColor(2, 0, 0), "var(--c1)"),
    (RGBColor(3, 0, 0), "var(--c2)"),
    (RGBColor(4, 0, 0), "var(--c3)"),
    (RGBColor(5, 0, 0), "var(--c4)"),
    (RGBColor(6, 0, 0), "var(--c5)"),
    (RGBColor(7, 0, 0), "var(--c6)"),
    (RGBColor(8, 0, 0), "var(--ink)"),
    (RGBColor(9, 0, 0), "var(--line)"),
];
const SERIES_COLOURS: usize = 7;
const INK: RGBColor = PLACEHOLDERS[7].0;
const LINE: RGBColor = PLACEHOLDERS[8].0;

/// Of a transport, the same in all pictures; of others, by where they are in theirs. A floor is of no
/// transport's colour.
fn colour(name: &str, index: usize) -> RGBColor {
    if name.starts_with("floor:") {
        return INK;
    }
    let known = TRANSPORTS.iter().position(|known| *known == name);
    PLACEHOLDERS[known.unwrap_or(index) % SERIES_COLOURS].0
}

const TRANSPORTS: [&str; SERIES_COLOURS] =
    ["shm:spsc", "mq", "shm:mpmc", "shm:rpc", "sysv", "unix", "shm:sealed"];

/// All pictures for which there are figures.
pub(super) fn of(rows: &[Row]) -> Result<Vec<Plot>, String> {
    let mut plots = Vec::new();
    for wait in ["spin", "block"] {
        let is_plain = |row: &&Row| row.wait.as_deref() == Some(wait) && row.touched == Default::default();
        let round_trips = || rows.iter().filter(|row| row.experiment == "latency").filter(is_plain);
        let by_size = series(round_trips(), |row| row.p50_ns);
        plots.extend(lines(
            &format!("Round trips by length, {wait}"),
            "The median of a message there and an answer of the same length back. Both axes are logarithmic.",
            ["message, bytes", "round trip, ns"],
            &by_size,
            &Series::new(),
        )?);
        let streams = rows.iter().filter(|row| {
            row.experiment == "throughput" && row.batch == 1 && row.senders + row.receivers == 2
        });
        let by_size = series(streams.filter(is_plain), |row| row.messages_per_second);
        plots.extend(lines(
            &format!("One way by length, {wait}"),
            "Messages a second, as fast as it goes; each is checked. Both axes are logarithmic.",
            ["message, bytes", "messages per second"],
            &by_size,
            &Series::new(),
        )?);
        let eight = round_trips().filter(|row| row.message_len_bytes == 8 && !row.distribution.is_empty());
        let distributions: Series = eight
            .map(|row| {
                let points = row.distribution.iter().filter(|(share, _)| *share < 1.0);
                // Nines to the right: 0.9 is at 10, 0.99 at 100.
                let points = points.map(|&(share, ns)| (1.0 / (1.0 - share), ns.max(1) as f64)).collect();
                (row.transport.to_string(), points)
            })
            .collect();
        plots.extend(lines(
            &format!("How round trips of 8 bytes are distributed, {wait}"),
            "At 10 the time that 90 % stay below, at 100 that of 99 %, at 1000 that of 99.9 %. Both axes are logarithmic.",
            ["1 / (1 - share)", "round trip, ns"],
            &distributions,
            &Series::new(),
        )?);
    }
    let floors: Vec<(String, f64)> = rows
        .iter()
        .filter(|row| {
            row.experiment == "latency" && row.message_len_bytes == 8 && row.wait.as_deref() == Some("spin")
        })
        .filter(|row| row.touched == Default::default())
        .filter_map(|row| Some((row.transport.to_string(), row.floor_ratio?)))
        .collect();
    plots.extend(tolerance(rows)?);
    plots.extend(bars(
        "Round trips of 8 bytes as multiples of the floor, spinning",
        "The floor is a bare cache line going back and forth between the same two processors.",
        &floors,
    )?);
    Ok(plots)
}

/// How many operations a second there are with ever longer hops: what was measured, on the lines
/// of the law.
fn tolerance(rows: &[Row]) -> Result<Option<Plot>, String> {
    let curves = curves(rows);
    let delays_ns = || curves.iter().flat_map(|curve| &curve.points).map(|&(delay_ns, _)| delay_ns);
    let Some(shortest_ns) = delays_ns().filter(|&delay_ns| delay_ns > 0).min() else { return Ok(None) };
    // There is no 0 on a logarithmic axis.
    let shown = |delay_ns: u64| if delay_ns == 0 { shortest_ns as f64 / 10.0 } else { delay_ns as f64 };
    let points = curves.iter().map(|curve| {
        let its = curve.points.iter().map(|&(delay_ns, rate)| (shown(delay_ns), rate));
        (curve.name(), its.collect())
    });
    let longest_ns = delays_ns().max().unwrap_or(shortest_ns) as f64;
    let steps = |law: Law| {
        let ns = (0..=60).map(|step| shown(0) * (longest_ns / shown(0)).powf(f64::from(step) / 60.0));
        ns.map(|ns| (ns, law.at(ns))).collect()
    };
    let laws = curves.iter().filter_map(|curve| Some((curve.name(), steps(curve.law?))));
    lines(
        "What is left when each hop takes longer",
        "Dots: measured; the leftmost are without delay. Lines: min(peak, W / L), no more than without delay, nor \
         than those W under way in the time L that one takes. A channel has one direction, so a reply takes a \
         second one: both processes store and retrieve, a hop there and a hop back. An update under a lock takes \
         a delay to get it and one to get it back. Both axes are logarithmic.",
        ["a hop longer by, ns", "operations per second"],
        &points.collect(),
        &laws.collect(),
    )
}

/// By transport, a figure for each length.
fn series<'a>(rows: impl Iterator<Item = &'a Row>, figure: impl Fn(&Row) -> Option<f64>) -> Series {
    let mut series = Series::new();
    for row in rows {
        if let Some(figure) = figure(row).filter(|figure| figure.is_finite() && *figure > 0.0) {
            let points = series.entry(row.transport.to_string()).or_default();
            points.push((row.message_len_bytes.max(1) as f64, figure));
        }
    }
    series.values_mut().for_each(|points| points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    series
}

/// From the least to the most, with some room; `None` of nothing.
fn range(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let low = values.clone().reduce(f64::min)?;
    let high = values.reduce(f64::max)?;
    Some((low / 1.5, high * 1.5))
}

fn text_style(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

pub(super) type Series = BTreeMap<String, Vec<(f64, f64)>>;

/// What a logarithmic axis has a place for: a file may hold anything.
fn on_the_axes(series: &Series) -> Series {
    let is_there = |&&(x, y): &&(f64, f64)| [x, y].iter().all(|value| value.is_finite() && *value > 0.0);
    let kept = series
        .iter()
        .map(|(name, points)| (name.clone(), points.iter().filter(is_there).copied().collect::<Vec<_>>()));
    kept.filter(|(_, points)| !points.is_empty()).collect()
}

/// Dots on lines over logarithmic axes; `None` if there is nothing to draw. The lines go through
/// the dots, unless others are given.
pub(super) fn lines(
    title: &str,
    explains: &str,
    [x_title, y_title]: [&str; 2],
    series: &Series,
    others: &Series,
) -> Result<Option<Plot>, String> {
    let (series, others) = (&on_the_axes(series), &on_the_axes(others));
    let points = || series.values().flatten();
    let (Some((x_low, x_high)), Some((y_low, y_high))) =
        (range(points().map(|point| point.0)), range(points().map(|point| point.1)))
    else {
        return Ok(None);
    };
    let mut svg = String::new();
    let drawn = (|| {
        let (key, key_height) = key(series.keys());
        let area = SVGBackend::with_string(&mut svg, (WIDTH, key_height + HEIGHT)).into_drawing_area();
        let (top, below) = area.split_vertically(key_height);
        for (index, (name, (x, y))) in series.keys().zip(key).enumerate() {
            let line = vec![(x, y), (x + KEY_LINE, y)];
            let style = ShapeStyle::from(&colour(name, index)).stroke_width(2);
            top.draw(&PathElement::new(line, style))?;
            top.draw(&Text::new(name.clone(), (x + KEY_LINE + 6, y - 7), text_style(13)))?;
        }
        let mut chart = ChartBuilder::on(&below)
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(MARGIN as u32 - 8)
            .build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(LINE.mix(0.0))
            .bold_line_style(ShapeStyle::from(&LINE))
            .axis_style(ShapeStyle::from(&INK))
            .label_style(text_style(14))
            .axis_desc_style(text_style(14))
            .x_desc(x_title)
            .y_desc(y_title)
            .x_label_formatter(&|x| round(*x))
            .y_label_formatter(&|y| round(*y))
            .draw()?;
        for (index, (name, points)) in series.iter().enumerate() {
            let colour = colour(name, index);
            let line = others.get(name).unwrap_or(points);
            let style = ShapeStyle::from(&colour).stroke_width(2);
            chart.draw_series(LineSeries::new(line.iter().copied(), style))?;
            chart.draw_series(points.iter().map(|&(x, y)| {
                EmptyElement::at((x, y)) + Circle::new((0, 0), 3, ShapeStyle::from(&colour).filled())
            }))?;
        }
        area.present()
    })();
    drawn.map_err(|error| format!("{title} can't be drawn: {error}"))?;
    Ok(Some(Plot { title: title.into(), explains: explains.into(), svg: themed(&svg) }))
}

/// How long the line is before a name in the key.
const KEY_LINE: i32 = 18;
/// What is to the left of the axes.
const MARGIN: i32 = 92;

/// Where the lines of the key begin, above the axes and nowhere in the way of what they are the key
/// to; and how high it is.
fn key<'a>(names: impl Iterator<Item = &'a String>) -> (Vec<(i32, i32)>, u32) {
    const ROW: i32 = 20;
    /// Wide enough for most letters of the labels' size.
    const LETTER: i32 = 7;
    let (mut x, mut y) = (MARGIN, ROW / 2 + 4);
    let mut places = Vec::new();
    for name in names {
        let width = KEY_LINE + 6 + LETTER * name.chars().count() as i32 + KEY_LINE;
        if x > MARGIN && x + width > WIDTH as i32 {
            (x, y) = (MARGIN, y + ROW);
        }
        places.push((x, y));
        x += width;
    }
    (places, (y + ROW / 2) as u32)
}

/// A bar for each; `None` if there is nothing to draw.
fn bars(title: &str, explains: &str, figures: &[(String, f64)]) -> Result<Option<Plot>, String> {
    let Some(most) = figures.iter().map(|(_, figure)| *figure).reduce(f64::max) else { return Ok(None) };
    let mut svg = String::new();
    let height = 40 + 32 * figures.len() as u32;
    let drawn = (|| {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let label_width = 190;
        let scale = f64::from(WIDTH as i32 - label_width - 90) / most;
        for (index, (name, figure)) in figures.iter().enumerate() {
            let y = 20 + 32 * index as i32;
            let end = label_width + (figure * scale).max(1.0) as i32;
            area.draw(&Text::new(name.clone(), (8, y + 5), text_style(15)))?;
            area.draw(&Rectangle::new(
                [(label_width, y), (end, y + 22)],
                ShapeStyle::from(&colour(name, index)).filled(),
            ))?;
            area.draw(&Text::new(format!("{figure:.2}"), (end + 8, y + 5), text_style(15)))?;
        }
        area.present()
    })();
    drawn.map_err(|error| format!("{title} can't be drawn: {error}"))?;
    Ok(Some(Plot { title: title.into(), explains: explains.into(), svg: themed(&svg) }))
}

/// A number on an axis.
fn round(value: f64) -> String {
    match value {
        _ if value >= 1e9 => format!("{} G", value / 1e9),
        _ if value >= 1e6 => format!("{} M", value / 1e6),
        _ if value >= 1e4 => format!("{} k", value / 1e3),
        _ => size(value as usize),
    }
}

/// With the style sheet's colours in place of those that stand for them.
fn themed(svg: &str) -> String {
    let mut themed = svg.to_owned();
    for (RGBColor(red, green, blue), variable) in PLACEHOLDERS {
        themed = themed.replace(&format!("#{red:02X}{green:02X}{blue:02X}"), variable);
    }
    // As wide as the page is; the box says in which proportion.
    themed.replacen(&format!("width=\"{WIDTH}\" height="), "role=\"img\" data-height=", 1)
}

#[cfg(test)]
mod tests {
    use super::{
        MARGIN, SERIES_COLOURS, Series, TRANSPORTS, WIDTH, colour, key, lines, of, round, tolerance,
    };
    use crate::record::Row;

    #[test]
    fn the_names_in_the_key_are_beside_or_below_one_another() {
        let names: Vec<String> = (0..12).map(|number| format!("shm:transport-{number}")).collect();
        let (places, height) = key(names.iter());
        assert!(places.iter().all(|&(x, y)| x >= MARGIN && x < WIDTH as i32 && y < height as i32));
        for pair in places.windows(2) {
            let [(x, y), (next_x, next_y)] = [pair[0], pair[1]];
            assert!(next_y > y || (next_y == y && next_x - x > 7 * 15), "{pair:?}");
        }
        assert!(height > 40, "they take more than a line");
    }

    #[test]
    fn a_floor_has_the_colour_of_no_transport() {
        for index in 0..SERIES_COLOURS {
            assert!(
                TRANSPORTS.iter().all(|name| colour(name, index) != colour("floor:cache-line-paused", index))
            );
        }
    }

    #[test]
    fn a_picture_has_its_series_and_no_colour_of_its_own() {
        let series = Series::from([
            ("mq".to_owned(), vec![(8.0, 45_000.0), (1024.0, 46_000.0)]),
            ("shm:spsc".to_owned(), vec![(8.0, 150.0), (1024.0, 400.0)]),
        ]);
        let plot = lines("T", "E", ["x", "y"], &series, &Series::new()).unwrap().unwrap();
        for part in ["<svg", "viewBox", "mq", "shm:spsc", "var(--c0)", "var(--c1)", "var(--ink)"] {
            assert!(plot.svg.contains(part), "no {part}: {}", plot.svg);
        }
        for own in ["#0", "#F", "#f", "black"] {
            assert!(!plot.svg.contains(&format!("\"{own}")), "{own}: {}", plot.svg);
        }
    }

    #[test]
    fn what_was_measured_is_drawn_on_the_lines_of_the_law() {
        let row = |delay_ns: u64| Row {
            transport: "shm:spsc".into(),
            in_flight: Some(1),
            delay_ns: Some(delay_ns),
            operations_per_second: Some(1e9 / (200 + 2 * delay_ns) as f64),
            ..Row::default()
        };
        let dots = |plot: &str| plot.matches("<circle").count();
        let plot = tolerance(&[0, 1_000, 1_000_000].map(row)).unwrap().unwrap();
        assert!(plot.svg.contains("shm:spsc, 1 in flight") && plot.explains.contains("second one"));
        assert_eq!(dots(&plot.svg), 3);
        // Sixty steps and where they begin.
        let longest =
            plot.svg.split("points=\"").map(|line| line.split('"').next().unwrap_or("").split(' ').count());
        assert!(longest.max() >= Some(61), "{}", plot.svg);
        assert!(tolerance(&[row(0)]).unwrap().is_none(), "without delays there is no picture");
    }

    #[test]
    fn what_has_no_place_on_a_logarithmic_axis_is_left_out() {
        let points = vec![(0.0, 5.0), (8.0, 0.0), (8.0, f64::NAN), (16.0, -1.0), (8.0, 5.0)];
        let series = Series::from([("mq".to_owned(), points), ("sysv".to_owned(), vec![(1.0, 0.0)])]);
        let draw = |series| lines("T", "E", ["x", "y"], series, &Series::new());
        let plot = draw(&series).unwrap().unwrap();
        assert_eq!(plot.svg.matches("<circle").count(), 1, "{}", plot.svg);
        assert!(!plot.svg.contains("sysv"));
        assert!(draw(&Series::from([("mq".to_owned(), vec![(0.0, 0.0)])])).unwrap().is_none());
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(of(&[]).unwrap().is_empty());
    }

    #[test]
    fn axes_have_short_numbers() {
        assert_eq!([round(8.0), round(100.0), round(1e5), round(1e7)], ["8", "100", "100 k", "10 M"]);
    }
}
