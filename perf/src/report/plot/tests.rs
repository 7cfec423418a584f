//! Pictures of made-up reports: that they hold what they should, and that their files are well formed.

use super::curves::{curves, is_bulk, nines};
use super::*;
use crate::report::figures::{JobFigures, KindFigures, Second};

fn report(name: &str, jobs: &[&str]) -> Report {
    let second = |number: u32| Second {
        time_s: f64::from(number),
        iops: 1000.0 + f64::from(number) * 100.0,
        bytes_per_second: 4096.0 * 1000.0,
    };
    let write = KindFigures {
        kind: "write",
        percentiles: vec![(50.0, 90_000.0), (99.0, 800_000.0), (99.99, 4e6), (100.0, 5e6)],
        seconds: (1..=5).map(second).collect(),
        ..KindFigures::default()
    };
    let job =
        |name: &&str| JobFigures { name: (*name).into(), kinds: vec![write.clone()], cpu_ns_per_io: None };
    Report { name: name.into(), jobs: jobs.iter().map(job).collect() }
}

#[test]
fn curves_are_in_the_units_of_the_axes() {
    let mut report = report("a", &["j"]);
    let last = Second { time_s: 5.1, iops: 9e9, bytes_per_second: 9e9 };
    report.jobs[0].kinds[0].seconds.push(last);
    let curves = curves(&[report]);
    assert_eq!(curves[0].label, "j write", "one file needs no name");
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let [median, p99, p9999] = curves[0].percentiles[..] else { panic!("{curves:?}, 100 % is nowhere") };
    assert!(near(median.0, 2f64.log10()) && near(p99.0, 2.0) && near(p9999.0, 4.0), "{curves:?}");
    assert_eq!((median.1, p9999.1), (90.0, 4000.0));
    assert_eq!(curves[0].iops.len(), 6, "from 0 on, and no tenth of a second");
    assert_eq!(curves[0].iops[..2], [(0.0, 1100.0), (1.0, 1100.0)]);
    assert!(!is_bulk(&curves) && near(nines(90.0), 1.0));
}

#[test]
fn an_svg_names_every_line() {
    let reports = [report("before", &["a<b&c\u{1}", "d"]), report("after", &["d"])];
    let svg = String::from_utf8(draw(&reports, Format::Svg).unwrap()).unwrap();
    for expected in
        ["before a&lt;b&amp;c  write", "before d write", "after d write", "99.99%", "\n1ms\n", "4 s"]
    {
        assert!(svg.contains(expected), "{expected} is not in\n{svg}");
    }
    assert_eq!(svg.matches("requests a second").count(), 1);
}

#[test]
fn without_seconds_there_is_one_chart() {
    let mut report = report("a", &["j"]);
    report.jobs[0].kinds[0].seconds.clear();
    let svg = String::from_utf8(draw(&[report], Format::Svg).unwrap()).unwrap();
    assert!(svg.contains("latency by percentile") && !svg.contains("over time"), "{svg}");
}

#[test]
fn a_png_holds_ink_of_every_colour() {
    let png = draw(&[report("a", &["j", "k"])], Format::Png).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.color_type), (WIDTH_PX, png::ColorType::Rgb));
    assert_eq!(pixels.len(), info.width as usize * info.height as usize * 3);
    let ink = |colour: [u8; 3]| pixels.chunks(3).filter(|pixel| *pixel == colour).count();
    // The first line is hidden by the second, but not in the legend.
    assert!(ink([0xc0, 0x39, 0x2b]) > 20 && ink([0x4a, 0x78, 0xb5]) > 500);
    let dark = pixels.chunks(3).filter(|pixel| pixel.iter().all(|part| *part < 100)).count();
    assert!(dark > 200, "letters");
    assert!(ink([255, 255, 255]) > pixels.len() / 3 / 2, "paper");
}

#[test]
fn too_little_and_too_much_are_refused() {
    let empty = Report { name: "a".into(), jobs: vec![JobFigures::default()] };
    assert!(matches!(draw(&[empty], Format::Svg), Err(PlotError::Nothing)));
    let jobs = ["j"; CURVES_MAX + 1];
    assert!(matches!(draw(&[report("a", &jobs)], Format::Svg), Err(PlotError::TooMany(_))));
    assert!(draw(&[report("a", &jobs[1..])], Format::Svg).is_ok());
}

#[test]
fn the_name_says_the_format() {
    let format = |name: &str| Format::of(Path::new(name));
    assert_eq!([format("a.svg"), format("b/c.png")], [Some(Format::Svg), Some(Format::Png)]);
    assert_eq!([format("svg"), format("a.pdf")], [None, None]);
}
