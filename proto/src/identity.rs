//! Identities as they go over the wire: 16 bytes each.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// So many bytes of identities stand in one allocation. It lives as long as any of them: until their messages are encoded.
const ROOM_BYTES: usize = 4_096;

thread_local! {
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// An identity for a message. Nearly every message has one or two, and the encoder clones them: they share their room, so that neither allocates.
pub(crate) fn sixteen_bytes(identity: &[u8; 16]) -> Bytes {
    ROOM.with_borrow_mut(|room| {
        if room.capacity() < identity.len() {
            *room = BytesMut::with_capacity(ROOM_BYTES);
        }
        room.extend_from_slice(identity);
        room.split().freeze()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_keeps_its_bytes_while_the_room_is_filled_again() {
        let identities: Vec<[u8; 16]> = (0..2_000_u128).map(u128::to_be_bytes).collect();
        let kept: Vec<Bytes> = identities.iter().map(sixteen_bytes).collect();
        assert!(kept.iter().zip(&identities).all(|(kept, identity)| kept[..] == identity[..]));
    }
}
