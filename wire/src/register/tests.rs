//! Registers: byte fixtures, round trips and hostile bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::limits::AUX_BYTES_MAX;
use crate::samples::{
    assert_fixture, assert_hostile, assert_round_trip, damage, epoch, image, shard_shift, text,
};

#[rustfmt::skip]
const STATE: [u8; 41] = [
    0x16, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  0 promised counter 22
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8 promised session 2
    0x15, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 accepted counter 21
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 24 accepted session 1
    0xe8, 0x03, 0x00, 0x00,                         // 32 lease left: 1000 ms
    0x03, 0x00,                                     // 36 3 bytes of value
    0xaa, 0xbb, 0xcc,                               // 38 value
];

#[rustfmt::skip]
const IMAGE_VALUE: [u8; 52] = [
    0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, //  0 operation
    0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50,
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, // 16 image
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
    0x02,                                           // 32 state 2: removing
    0x16,                                           // 33 shards of 2^22 bytes
    0x02, 0x00,                                     // 34 2 groups
    0x00, 0x00,                                     // 36 group 0
    0x03, 0x00,                                     // 38 group 3
    0x80, 0x38, 0x6d, 0x69, 0x00, 0x00, 0x00, 0x00, // 40 created 0x696d3880
    0x02, 0x00, 0x76, 0x6d,                         // 48 name "vm"
];

/// `REGISTER_LIST` of names after "vm".
#[rustfmt::skip]
const LIST_REQUEST: [u8; 6] = [
    0x01,                                           //  0 kind 1: names
    0x01, 0x02, 0x00, 0x76, 0x6d,                   //  1 key: kind 1, name "vm"
];

#[test]
fn a_state_stands_as_documented() {
    let state = RegisterState {
        promised: Epoch { counter: 22, session: SessionId(2) },
        accepted: Epoch { counter: 21, session: SessionId(1) },
        lease_left_ms: 1000,
        value: vec![0xaa, 0xbb, 0xcc],
    };
    assert_fixture(&state, &STATE);

    // An entry is the key, then the state: here of the epoch register of image 40…
    let key = RegisterKey::Epoch(ImageUuid::from_bytes([0x40; 16]));
    let entry = [&[0x03], &[0x40; 16][..], &STATE].concat();
    assert_fixture(&RegisterEntry { key, state }, &entry);
}

#[test]
fn an_image_stands_as_documented() {
    let value = ImageValue {
        operation: OperationUuid::from_bytes([0x50; 16]),
        image: ImageUuid::from_bytes([0x40; 16]),
        state: ImageState::Removing,
        shard_shift: 22,
        groups: vec![0, 3],
        created_seconds: 0x696d_3880,
        name: "vm".into(),
    };
    assert_fixture(&value, &IMAGE_VALUE);
    for (offset, byte, field) in [
        (32, 0, "image.state"),
        (32, 4, "image.state"),
        (33, 19, "image.shard_shift"),
        (33, 27, "image.shard_shift"),
        (34, 0, "image.groups"),
    ] {
        let mut bytes = IMAGE_VALUE;
        bytes[offset] = byte;
        let error = BodyError::OutOfRange { field, value: u64::from(byte) };
        assert_eq!(ImageValue::from_bytes(&bytes), Err(error));
    }
}

#[test]
fn a_scrub_stands_as_documented() {
    let value = ScrubValue {
        operation: OperationUuid::from_bytes([0x50; 16]),
        agent: SessionId(1),
        begun_seconds: 2,
        touched_seconds: 3,
        finished_seconds: 4,
        next_shard: 5,
        shards: 6,
        checked_blocks: 7,
        bad_blocks: 8,
        repaired_blocks: 9,
        unrepairable_blocks: 10,
    };
    let numbers = |range: std::ops::RangeInclusive<u64>| range.flat_map(u64::to_le_bytes);
    let mut bytes = vec![0x50; 16];
    bytes.extend(numbers(1..=4));
    bytes.extend([5, 0, 0, 0, 6, 0, 0, 0]);
    bytes.extend(numbers(7..=10));
    assert_fixture(&value, &bytes);
    bytes[48] = 7;
    let error = BodyError::OutOfRange { field: "scrub.next_shard", value: 7 };
    assert_eq!(ScrubValue::from_bytes(&bytes), Err(error));
}

#[test]
fn a_name_stands_as_documented() {
    let value = NameValue {
        operation: OperationUuid::from_bytes([0x50; 16]),
        image: ImageUuid::from_bytes([0x40; 16]),
    };
    assert_fixture(&value, &[[0x50; 16], [0x40; 16]].concat());
}

#[test]
fn a_list_request_stands_as_documented() {
    let after = Some(RegisterKey::Name("vm".into()));
    assert_fixture(&RegisterListRequest { kind: RegisterKind::Name, after }, &LIST_REQUEST);
    assert_fixture(&RegisterListRequest { kind: RegisterKind::Epoch, after: None }, &[3]);
}

#[test]
fn a_list_stays_within_its_kind() {
    let mut other_kind = LIST_REQUEST;
    other_kind[0] = 2;
    let error = BodyError::OutOfRange { field: "list.after", value: 1 };
    assert_eq!(RegisterListRequest::from_bytes(&other_kind), Err(error));
}

#[test]
fn a_page_ascends_so_that_paging_ends() {
    let entry = |name: &str| {
        RegisterEntry { key: RegisterKey::Name(name.into()), state: RegisterState::default() }.to_bytes()
    };
    let error = BodyError::OutOfRange { field: "page.key", value: 1 };
    for second in ["a", "b"] {
        assert_eq!(RegisterPage::from_bytes(&[entry("b"), entry(second)].concat()), Err(error));
    }
    assert!(RegisterPage::from_bytes(&[entry("b"), entry("c")].concat()).is_ok());
}

#[test]
fn values_beyond_their_limit_are_refused() {
    let mut bytes = STATE.to_vec();
    bytes[36..38].copy_from_slice(&4097u16.to_le_bytes());
    bytes.resize(38 + 4097, 0);
    let error = BodyError::OutOfRange { field: "register.value", value: 4097 };
    assert_eq!(RegisterState::from_bytes(&bytes), Err(error));
    let name = [&[1, 0, 1], &[b'x'; 256][..]].concat();
    let error = BodyError::OutOfRange { field: "register.name", value: 256 };
    assert_eq!(RegisterKey::from_bytes(&name), Err(error));
}

fn key() -> impl Strategy<Value = RegisterKey> {
    prop_oneof![
        text(IMAGE_NAME_BYTES_MAX).prop_map(RegisterKey::Name),
        image().prop_map(RegisterKey::Image),
        image().prop_map(RegisterKey::Epoch),
    ]
}

fn entry() -> impl Strategy<Value = RegisterEntry> {
    let value = prop_oneof![vec(any::<u8>(), 0..60), vec(any::<u8>(), REGISTER_VALUE_BYTES_MAX)];
    (key(), epoch(), epoch(), any::<u32>(), value).prop_map(|(key, promised, accepted, lease, value)| {
        RegisterEntry { key, state: RegisterState { promised, accepted, lease_left_ms: lease, value } }
    })
}

fn page() -> impl Strategy<Value = RegisterPage> {
    vec(entry(), 0..6).prop_map(|mut entries| {
        entries.sort_by(|one, next| one.key.cmp(&next.key));
        entries.dedup_by(|one, next| one.key == next.key);
        RegisterPage { entries }
    })
}

fn list_request() -> impl Strategy<Value = RegisterListRequest> {
    (key(), option::of(Just(())))
        .prop_map(|(key, after)| RegisterListRequest { kind: key.kind(), after: after.map(|()| key) })
}

fn image_value() -> impl Strategy<Value = ImageValue> {
    let state = prop_oneof![Just(ImageState::Live), Just(ImageState::Removing), Just(ImageState::Removed)];
    let groups = prop_oneof![vec(any::<u16>(), 1..5), vec(any::<u16>(), GROUPS_MAX)];
    (any::<[u8; 16]>(), image(), state, shard_shift(), groups, any::<u64>(), text(IMAGE_NAME_BYTES_MAX))
        .prop_map(|(operation, image, state, shard_shift, groups, created_seconds, name)| ImageValue {
            operation: OperationUuid::from_bytes(operation),
            image,
            state,
            shard_shift,
            groups,
            created_seconds,
            name,
        })
}

proptest! {
    #[test]
    fn all_come_back_as_they_went(
        entry in entry(),
        page in page(),
        list in list_request(),
        image in image_value(),
        ids in any::<([u8; 16], [u8; 16])>(),
    ) {
        assert_round_trip(&entry.key);
        assert_round_trip(&entry.state);
        assert_round_trip(&entry);
        assert_round_trip(&page);
        assert_round_trip(&list);
        assert_round_trip(&image);
        let (operation, name) = (OperationUuid::from_bytes(ids.0), ImageUuid::from_bytes(ids.1));
        assert_round_trip(&NameValue { operation, image: name });
        prop_assert!(image.to_bytes().len() <= REGISTER_VALUE_BYTES_MAX);
        prop_assert!(entry.to_bytes().len() + 4 <= AUX_BYTES_MAX);
    }

    #[test]
    fn damage_does_not_panic(
        page in page(),
        list in list_request(),
        image in image_value(),
        damage in damage(),
    ) {
        assert_hostile::<RegisterPage>(&damage.apply(page.to_bytes()));
        assert_hostile::<RegisterListRequest>(&damage.apply(list.to_bytes()));
        assert_hostile::<ImageValue>(&damage.apply(image.to_bytes()));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        assert_hostile::<RegisterKey>(&bytes);
        assert_hostile::<RegisterState>(&bytes);
        assert_hostile::<RegisterEntry>(&bytes);
        assert_hostile::<RegisterPage>(&bytes);
        assert_hostile::<RegisterListRequest>(&bytes);
        assert_hostile::<NameValue>(&bytes);
        assert_hostile::<ImageValue>(&bytes);
    }
}
