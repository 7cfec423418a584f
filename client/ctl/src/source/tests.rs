//! Raw files with holes, and qcow2 images as qemu-img makes them. The latter tests say so and pass if
//! qemu-img isn't installed.

use std::fs;
use std::process::Command;

use super::*;

/// Runs a tool of qemu; false if it isn't installed.
fn qemu(tool: &str, arguments: &[&str]) -> bool {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{tool} {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            true
        }
        Err(error) => {
            println!("skipped: {tool}: {error}");
            false
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The whole image, put together from its extents; checks that they leave no gap.
fn contents(source: &Source) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in source.extents() {
        let extent = extent.unwrap();
        assert_eq!(extent.offset_bytes, bytes.len() as u64, "extents follow each other");
        let start = bytes.len();
        bytes.resize(start + usize::try_from(extent.length_bytes).unwrap(), 0);
        if extent.kind == ExtentKind::Data {
            source.read_at(extent.offset_bytes, &mut bytes[start..]).unwrap();
        }
    }
    assert_eq!(bytes.len() as u64, source.size_bytes());
    bytes
}

fn data_bytes(source: &Source) -> u64 {
    let extents = source.extents().map(Result::unwrap);
    extents.filter(|extent| extent.kind == ExtentKind::Data).map(|extent| extent.length_bytes).sum()
}

/// A raw file of 3 MiB and a bit: hole, data, hole, data at the odd end.
fn sparse_file(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    let mut expected = vec![0; (3 << 20) + 777];
    file.set_len(expected.len() as u64).unwrap();
    for (start, length) in [(1 << 20, 70_000), ((3 << 20) + 100, 677)] {
        let data: Vec<u8> = (0..length).map(|at| (at % 251) as u8 + 1).collect();
        file.write_all_at(&data, start as u64).unwrap();
        expected[start..start + length].copy_from_slice(&data);
    }
    expected
}

#[test]
fn raw_holes_are_not_data() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let expected = sparse_file(&path);
    let source = Source::open(&path, None).unwrap();
    assert_eq!(source.format(), SourceFormat::Raw);
    assert!(contents(&source) == expected);
    assert!(data_bytes(&source) < 200_000, "{} bytes of data", data_bytes(&source));
    assert_eq!(source.extent_at(expected.len() as u64).unwrap(), None);
    assert_eq!(source.extent_at(u64::MAX).unwrap(), None);
}

#[test]
fn empty_and_wholly_empty_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(&path, "").unwrap();
    assert_eq!(Source::open(&path, None).unwrap().extents().count(), 0);
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let source = Source::open(&path, None).unwrap();
    let extents: Vec<SourceExtent> = source.extents().map(Result::unwrap).collect();
    assert_eq!(extents, [SourceExtent { offset_bytes: 0, length_bytes: 1 << 40, kind: ExtentKind::Zero }]);
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(&path, vec![1; 100_000]).unwrap();
    let source = Source::open(&path, None).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    let sentence = source.read_at(0, &mut [0; 4096]).unwrap_err().to_string();
    assert!(sentence.contains("cannot read 4096 bytes at 0"), "{sentence}");
}

#[test]
fn qcow2_plain_compressed_and_with_backing() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    // qemu-img rounds sizes up to sectors.
    let mut expected = sparse_file(&raw);
    expected.resize(expected.len().next_multiple_of(512), 0);
    let plain = directory.path().join("plain.qcow2");
    if !qemu("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&plain)]) {
        return;
    }
    let source = Source::open(&plain, None).unwrap();
    assert_eq!(source.format(), SourceFormat::Qcow2);
    assert!(contents(&source) == expected);
    assert!(data_bytes(&source) < 300_000, "{} bytes of data", data_bytes(&source));

    let compressed = directory.path().join("compressed.qcow2");
    qemu("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&compressed)]);
    assert!(contents(&Source::open(&compressed, None).unwrap()) == expected);

    // A larger overlay, with a relative backing file, over which one piece was written.
    let overlay = directory.path().join("overlay.qcow2");
    qemu("qemu-img", &["create", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", text(&overlay), "4M"]);
    if !qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 0x77 1M 64k", text(&overlay)]) {
        return;
    }
    expected.resize(4 << 20, 0);
    expected[1 << 20..(1 << 20) + 65536].fill(0x77);
    assert!(contents(&Source::open(&overlay, None).unwrap()) == expected);

    // As raw, the very bytes of the file.
    let bytes = fs::read(&plain).unwrap();
    let as_raw = Source::open(&plain, Some(SourceFormat::Raw)).unwrap();
    assert!(contents(&as_raw) == bytes);
}

#[test]
fn qcow2_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.qcow2");
    if !qemu("qemu-img", &["create", "-f", "qcow2", text(&base), "1M"]) {
        return;
    }
    let overlay = directory.path().join("overlay.qcow2");
    qemu("qemu-img", &["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", text(&overlay)]);
    assert!(Source::open(&overlay, None).is_ok());

    // The encryption method in the header of the base.
    let file = File::options().write(true).open(&base).unwrap();
    file.write_all_at(&[0, 0, 0, 2], 32).unwrap();
    for path in [&base, &overlay] {
        let sentence = Source::open(path, None).unwrap_err().to_string();
        assert!(sentence.contains("encrypted"), "{sentence}");
    }
    fs::remove_file(&base).unwrap();
    let sentence = Source::open(&overlay, None).unwrap_err().to_string();
    assert!(sentence.contains("base.qcow2") && sentence.contains("No such file"), "{sentence}");
    // An image that backs itself.
    fs::rename(&overlay, &base).unwrap();
    let sentence = Source::open(&base, None).unwrap_err().to_string();
    assert!(sentence.contains("more than 64 images"), "{sentence}");
}

#[test]
fn formats_are_recognised_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    for (at, magic, name) in FOREIGN_MAGICS {
        let mut bytes = vec![0; 4096];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        fs::write(&path, &bytes).unwrap();
        match Source::open(&path, None) {
            Err(SourceError::ForeignFormat { format, .. }) => assert_eq!(format, name),
            other => panic!("{name}: {other:?}"),
        }
        assert!(Source::open(&path, Some(SourceFormat::Raw)).is_ok(), "unless told otherwise");
    }
    fs::write(&path, b"QFI\xfb\0\0\0\x01").unwrap();
    assert!(matches!(Source::open(&path, None), Err(SourceError::ForeignFormat { .. })), "version 1");
    fs::write(&path, b"plain").unwrap();
    assert!(matches!(Source::open(&path, Some(SourceFormat::Qcow2)), Err(SourceError::NotQcow2 { .. })));
    fs::write(&path, b"QFI\xfb\0\0\0\x03 and then nothing sensible").unwrap();
    assert!(matches!(Source::open(&path, None), Err(SourceError::Qcow2 { .. })), "damaged");
    assert!(matches!(Source::open(directory.path(), None), Err(SourceError::NotAnImage { .. })));
    let missing = directory.path().join("missing");
    assert!(matches!(Source::open(&missing, None), Err(SourceError::Open { .. })));
}
