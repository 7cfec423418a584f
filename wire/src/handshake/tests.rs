//! Hello and welcome: byte fixtures, round trips and hostile bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::samples::{assert_fixture, assert_hostile, assert_round_trip, brick, damage, incarnation, text};

#[rustfmt::skip]
const HELLO: [u8; 66] = [
    0x01, 0x00,                                     //  0 lowest version 1
    0x03, 0x00,                                     //  2 highest version 3
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  4 no features
    0x01,                                           // 12 kind 1: client
    0x00,                                           // 13 reserved
    0x05, 0x00,                                     // 14 core 5
    0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, // 16 volume
    0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, // 32 brick
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // 48 session
    0x02, 0x00, 0x00, 0x00,                         // 56 connection generation 2
    0x04, 0x00, 0x76, 0x6d, 0x2d, 0x31,             // 60 name "vm-1"
];

#[rustfmt::skip]
const WELCOME: [u8; 114] = [
    0x01, 0x00,                                     //  0 version 1
    0x02,                                           //  2 role 2: arbiter
    0x01,                                           //  3 bit 0: blank
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  4 no features
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, // 12 brick
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, // 28 volume
    0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, // 44 boot
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30,
    0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 60 start counter 9
    0x04, 0x00,                                     // 68 4 cores
    0x40, 0x00,                                     // 70 64 lanes
    0x01, 0x00,                                     // 72 core 1
    0x00, 0x00,                                     // 74 reserved
    0x00, 0x00, 0x80, 0x00,                         // 76 credits: 8 MiB
    0x88, 0x13, 0x00, 0x00,                         // 80 lease: 5000 ms
    0x04, 0x00, 0x62, 0x75, 0x73, 0x79,             // 84 reason "busy"
    0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, // 90 brick with a floor
    0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21,
    0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //106 its floor 7
];

fn sample_hello() -> Hello {
    Hello {
        versions: (1, 3),
        features: 0,
        kind: PeerKind::Client,
        core: CoreIndex(5),
        volume: VolumeUuid::from_bytes([0x10; 16]),
        brick: BrickUuid::from_bytes([0x20; 16]),
        session: SessionId(0x1122_3344_5566_7788),
        generation: ConnectionGeneration(2),
        name: "vm-1".into(),
    }
}

fn sample_welcome() -> Welcome {
    let boot = BootUuid::from_bytes([0x30; 16]);
    let mut floors = Floors::default();
    floors.raise(BrickUuid::from_bytes([0x21; 16]), StartCounter(7));
    Welcome {
        version: 1,
        role: Role::Arbiter,
        blank: true,
        features: 0,
        brick: BrickUuid::from_bytes([0x20; 16]),
        volume: VolumeUuid::from_bytes([0x10; 16]),
        incarnation: Incarnation { boot, start: StartCounter(9) },
        cores: 4,
        lanes: 64,
        core: CoreIndex(1),
        credit_bytes: 8 << 20,
        lease_ms: 5000,
        reason: "busy".into(),
        floors,
    }
}

#[test]
fn a_hello_stands_as_documented() {
    assert_fixture(&sample_hello(), &HELLO);
}

#[test]
fn a_welcome_stands_as_documented() {
    assert_fixture(&sample_welcome(), &WELCOME);
}

#[test]
fn fields_without_meaning_are_refused() {
    let altered = |fixture: &[u8], offset: usize, bytes: &[u8]| {
        let mut altered = fixture.to_vec();
        altered[offset..offset + bytes.len()].copy_from_slice(bytes);
        altered
    };
    let out_of_range = |field, value| BodyError::OutOfRange { field, value };
    for (offset, bytes, field, value) in
        [(0, &[4][..], "hello.versions", 4), (12, &[4], "hello.kind", 4), (60, &[129], "hello.name", 129)]
    {
        assert_eq!(Hello::from_bytes(&altered(&HELLO, offset, bytes)), Err(out_of_range(field, value)));
    }
    for (offset, bytes, field, value) in [
        (2, &[0][..], "welcome.role", 0),
        (68, &[0, 0], "welcome.cores", 0),
        (68, &[1, 1], "welcome.cores", 257),
        (70, &[1, 1], "welcome.lanes", 257),
        (72, &[4, 0], "welcome.core", 4),
        (84, &[1, 2], "welcome.reason", 513),
    ] {
        assert_eq!(Welcome::from_bytes(&altered(&WELCOME, offset, bytes)), Err(out_of_range(field, value)));
    }
    assert_eq!(Hello::from_bytes(&[&HELLO[..], &[0]].concat()), Err(BodyError::Trailing(1)));
    assert_eq!(Welcome::from_bytes(&[&WELCOME[..], &[0; 2]].concat()), Err(BodyError::Truncated));
    let not_utf8 = altered(&HELLO, 62, &[0xff]);
    assert_eq!(Hello::from_bytes(&not_utf8), Err(BodyError::NotUtf8 { field: "hello.name" }));
}

/// Later versions may give reserved bytes a meaning that this one can do without.
#[test]
fn reserved_bytes_are_ignored() {
    let mut hello = HELLO;
    hello[13] = 0xff;
    assert_eq!(Hello::from_bytes(&hello), Ok(sample_hello()));
    let mut welcome = WELCOME;
    (welcome[3], welcome[74], welcome[75]) = (0xff, 0xff, 0xff);
    assert_eq!(Welcome::from_bytes(&welcome), Ok(sample_welcome()));
}

#[test]
fn long_texts_for_people_are_clipped_between_characters() {
    let hello = Hello { name: "ü".repeat(200), ..sample_hello() };
    let name = Hello::from_bytes(&hello.to_bytes()).expect("valid").name;
    assert_eq!(name, "ü".repeat(CLIENT_NAME_BYTES_MAX / 2));
    let welcome = Welcome { reason: format!("x{}", "ü".repeat(400)), ..sample_welcome() };
    let reason = Welcome::from_bytes(&welcome.to_bytes()).expect("valid").reason;
    assert_eq!(reason.len(), REASON_BYTES_MAX - 1);
    assert!(welcome.reason.starts_with(&reason));
}

fn hello() -> impl Strategy<Value = Hello> {
    let kind = prop_oneof![Just(PeerKind::Client), Just(PeerKind::Brick), Just(PeerKind::Operator)];
    let ids = (any::<[u8; 16]>(), brick(), any::<u64>(), any::<u32>());
    (any::<(u16, u16)>(), any::<u64>(), kind, any::<u16>(), ids, text(CLIENT_NAME_BYTES_MAX)).prop_map(
        |((one, two), features, kind, core, (volume, brick, session, generation), name)| Hello {
            versions: (one.min(two), one.max(two)),
            features,
            kind,
            core: CoreIndex(core),
            volume: VolumeUuid::from_bytes(volume),
            brick,
            session: SessionId(session),
            generation: ConnectionGeneration(generation),
            name,
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let head =
        (any::<u16>(), prop_oneof![Just(Role::Data), Just(Role::Arbiter)], any::<bool>(), any::<u64>());
    let ids = (brick(), any::<[u8; 16]>(), incarnation());
    let numbers = (1..=CORES_MAX, 1..=LANES_MAX, any::<u16>(), any::<u32>(), any::<u32>());
    let floors = vec((brick(), 1..u64::MAX), 0..4);
    (head, ids, numbers, text(REASON_BYTES_MAX), floors).prop_map(
        |((version, role, blank, features), (brick, volume, incarnation), numbers, reason, entries)| {
            let mut floors = Floors::default();
            for (brick, floor) in entries {
                floors.raise(brick, StartCounter(floor));
            }
            let (cores, lanes, core, credit_bytes, lease_ms) = numbers;
            Welcome {
                version,
                role,
                blank,
                features,
                brick,
                volume: VolumeUuid::from_bytes(volume),
                incarnation,
                cores,
                lanes,
                core: CoreIndex(core % cores),
                credit_bytes,
                lease_ms,
                reason,
                floors,
            }
        },
    )
}

proptest! {
    #[test]
    fn both_come_back_as_they_went(hello in hello(), welcome in welcome()) {
        assert_round_trip(&hello);
        assert_round_trip(&welcome);
    }

    #[test]
    fn damage_does_not_panic(hello in hello(), welcome in welcome(), damage in damage()) {
        assert_hostile::<Hello>(&damage.apply(hello.to_bytes()));
        assert_hostile::<Welcome>(&damage.apply(welcome.to_bytes()));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        assert_hostile::<Hello>(&bytes);
        assert_hostile::<Welcome>(&bytes);
    }
}
