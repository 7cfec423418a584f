//! Byte fixtures of the handshake, each field annotated, and what a hostile client gets.

use proptest::prelude::*;

use super::*;

fn negotiation() -> Negotiation {
    Negotiation::new(Export {
        name: "vm".into(),
        description: "a disk".into(),
        size_bytes: 0x0001_0000,
        read_only: false,
    })
}

/// Option `code` with `data`, as a client sends it.
fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Runs a handshake that starts with `flags` over all `options`; stops at the first other step.
fn converse(flags: u32, options: &[Vec<u8>]) -> (Result<Step, NegotiationError>, Vec<u8>) {
    let mut negotiation = negotiation();
    let mut input = BytesMut::from(&flags.to_be_bytes()[..]);
    options.iter().for_each(|option| input.extend_from_slice(option));
    let mut output = BytesMut::new();
    loop {
        match negotiation.handle_input(&mut input, &mut output) {
            Ok(Step::Again) => {}
            other => return (other, output.to_vec()),
        }
    }
}

/// What GO of the default export, block size wanted, is made of.
const GO_DEFAULT_BLOCK_SIZE: [u8; 8] = [0, 0, 0, 0, 0, 1, 0, 3];

#[test]
fn greeting_bytes() {
    assert_eq!(
        Negotiation::greeting(),
        [
            b'N', b'B', b'D', b'M', b'A', b'G', b'I', b'C', // server magic
            b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // option magic
            0, 3, // FIXED_NEWSTYLE, NO_ZEROES
        ]
    );
}

#[test]
fn go_reply_bytes() {
    let (step, output) = converse(3, &[option(7, &GO_DEFAULT_BLOCK_SIZE)]);
    assert_eq!(step, Ok(Step::Transmission(Session::default())));
    let expected = [
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 7, // to GO
        0, 0, 0, 3, // INFO
        0, 0, 0, 12, // length
        0, 0, // EXPORT
        0, 0, 0, 0, 0, 1, 0, 0, // size
        1, 0x6d, // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 7, // to GO
        0, 0, 0, 3, // INFO
        0, 0, 0, 14, // length
        0, 3, // BLOCK_SIZE
        0, 0, 2, 0, // minimum 512
        0, 0, 0x10, 0, // preferred 4096
        2, 0, 0, 0, // maximum 32 MiB
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 7, // to GO
        0, 0, 0, 1, // ACK
        0, 0, 0, 0, // length
    ];
    assert_eq!(output, expected);
}

#[test]
fn export_name_reply_bytes() {
    let (step, output) = converse(1, &[option(1, b"vm")]);
    assert_eq!(step, Ok(Step::Transmission(Session::default())));
    let mut expected = vec![
        0, 0, 0, 0, 0, 1, 0, 0, // size
        1, 0x6d, // transmission flags
    ];
    expected.extend([0; 124]);
    assert_eq!(output, expected, "without NO_ZEROES the padding follows");
    let (_, output) = converse(3, &[option(1, b"vm")]);
    assert_eq!(output.len(), 10, "with NO_ZEROES it doesn't");
}

#[test]
fn list_reply_bytes() {
    let (step, output) = converse(3, &[option(3, &[]), option(2, &[])]);
    assert_eq!(step, Ok(Step::Ended));
    let expected = [
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 3, // to LIST
        0, 0, 0, 2, // SERVER
        0, 0, 0, 12, // length
        0, 0, 0, 2, b'v', b'm', // name
        b'a', b' ', b'd', b'i', b's', b'k', // description
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 3, // to LIST
        0, 0, 0, 1, // ACK
        0, 0, 0, 0, // length
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, // reply magic
        0, 0, 0, 2, // to ABORT
        0, 0, 0, 1, // ACK
        0, 0, 0, 0, // length
    ];
    assert_eq!(output, expected);
}

#[test]
fn metadata_needs_structured_replies_and_selects_allocation() {
    let mut data = vec![0, 0, 0, 2, b'v', b'm', 0, 0, 0, 1, 0, 0, 0, 15];
    data.extend_from_slice(b"base:allocation");
    let (_, output) = converse(3, &[option(10, &data)]);
    assert_eq!(output[12..16], option_reply::ERR_INVALID.to_be_bytes(), "no structured replies yet");

    let go = option(7, &GO_DEFAULT_BLOCK_SIZE);
    let (step, output) = converse(3, &[option(8, &[]), option(10, &data), go.clone()]);
    let session = Session { structured_replies: true, allocation_context: true };
    assert_eq!(step, Ok(Step::Transmission(session)));
    let context = &output[20..20 + 20 + 4 + 15];
    assert_eq!(context[12..16], option_reply::META_CONTEXT.to_be_bytes());
    assert_eq!(context[20..24], ALLOCATION_CONTEXT_ID.to_be_bytes());
    assert_eq!(&context[24..], b"base:allocation");

    // A later selection replaces it, even when it fails.
    let failing = option(10, &[9, 9]);
    let (step, _) = converse(3, &[option(8, &[]), option(10, &data), failing, go]);
    let session = Session { structured_replies: true, allocation_context: false };
    assert_eq!(step, Ok(Step::Transmission(session)));
}

#[test]
fn refused_options_leave_the_handshake_alive() {
    for (code, data, reply_type) in [
        (5, &[][..], option_reply::ERR_UNSUP),
        (77, b"junk", option_reply::ERR_UNSUP),
        (3, b"junk", option_reply::ERR_INVALID),
        (6, &[0, 0, 0, 1, b'x', 0, 0], option_reply::ERR_UNKNOWN),
        (7, &[0, 0, 0, 1, b'x', 0, 0], option_reply::ERR_UNKNOWN),
    ] {
        let (step, output) = converse(3, &[option(code, data), option(7, &GO_DEFAULT_BLOCK_SIZE)]);
        assert_eq!(output[12..16], reply_type.to_be_bytes(), "option {code}");
        assert!(matches!(step, Ok(Step::Transmission(_))), "option {code}");
    }
}

#[test]
fn hostile_clients_are_dropped() {
    assert_eq!(converse(0x80, &[]).0, Err(NegotiationError::UnknownClientFlags(0x80)));
    let garbage = vec![b'G'; 16];
    assert!(matches!(converse(3, &[garbage]).0, Err(NegotiationError::BadOptionMagic(_))));
    let mut endless = option(7, &[]);
    endless[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(converse(3, &[endless]).0, Err(NegotiationError::OptionTooLong { code: 7, length: u32::MAX }));
    assert_eq!(converse(3, &[option(1, b"other")]).0, Err(NegotiationError::UnknownExport("other".into())));
    let haggling = vec![option(77, &[]); OPTION_COUNT_MAX + 1];
    assert_eq!(converse(3, &haggling).0, Err(NegotiationError::TooManyOptions));
}

#[test]
fn a_size_that_is_no_multiple_of_512_lowers_the_minimum() {
    let mut negotiation = negotiation();
    negotiation.export.size_bytes = 1000;
    let mut output = BytesMut::new();
    let query = ExportQuery { wants_block_size: true, ..ExportQuery::default() };
    assert!(negotiation.describe(option_code::GO, &query, &mut output));
    assert_eq!(output[20 + 12 + 20 + 2..][..4], 1u32.to_be_bytes());
}

proptest! {
    #[test]
    fn the_cut_of_the_stream_does_not_matter(cuts in proptest::collection::vec(1usize..9, 1..40)) {
        let mut stream = 3u32.to_be_bytes().to_vec();
        for bytes in [option(8, &[]), option(77, b"what?"), option(7, &GO_DEFAULT_BLOCK_SIZE)] {
            stream.extend(bytes);
        }
        let whole = converse(3, &[stream[4..].to_vec()]);
        let mut negotiation = negotiation();
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let (mut rest, mut cuts) = (&stream[..], cuts.into_iter().cycle());
        let step = loop {
            match negotiation.handle_input(&mut input, &mut output).unwrap() {
                Step::Again => {}
                Step::NeedMore => {
                    let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    input.extend_from_slice(piece);
                    rest = left;
                }
                step => break step,
            }
        };
        prop_assert_eq!((Ok(step), output.to_vec()), whole);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut negotiation = negotiation();
        let mut input = BytesMut::from(&[0, 0, 0, 3][..]);
        input.extend_from_slice(&bytes);
        let mut output = BytesMut::new();
        while let Ok(Step::Again) = negotiation.handle_input(&mut input, &mut output) {}
    }
}
