//! `image declare-good`: the last resort after a permanent loss. Says what may be lost, asks, then does it.

use brick_client::{DeclarePrice, ImageName, Volume};

use crate::error::Error;
use crate::output::{bytes, confirmed};

/// A block, bytes.
const BLOCK_BYTES: u64 = 4096;

pub async fn run(volume: &Volume, name: &ImageName, address: &str, yes: bool) -> Result<(), Error> {
    let price = volume.what_declaring_loses(name, address).await?;
    eprintln!("{}", warning(name, address, &price));
    if !yes && !confirmed("image's name", name.as_str()) {
        return Err(Error::NotConfirmed);
    }
    volume.declare_good(name, address).await?;
    println!(
        "image {name}: the copy on {address} is the only good one now; every other copy of group {} is healed \
         from it when its brick is there",
        price.group
    );
    Ok(())
}

fn warning(name: &ImageName, address: &str, price: &DeclarePrice) -> String {
    let good = price.in_sync.join(", ");
    let mut text = format!("image {name}: the good copies are on {good}.\n");
    if price.is_in_sync && price.closed {
        text += &format!("The copy on {address} is one of them, and the image was closed: nothing is lost.");
    } else if price.is_in_sync {
        text += &format!(
            "The copy on {address} is one of them. What was written and not flushed when power was lost may be \
             on another copy only, and is lost."
        );
    } else {
        let amount = match price.missed_blocks {
            Some(blocks) => {
                format!("up to {blocks} blocks ({}) written since then", bytes(blocks * BLOCK_BYTES))
            }
            None => {
                "all that was written since then, and nobody who answers knows how much that is,".to_owned()
            }
        };
        text += &format!(
            "The copy on {address} left them earlier: {amount} are old in it, some may be old and others new. \
             A file system on it needs a check."
        );
    }
    if !price.older_copies.is_empty() {
        text += &format!(
            "\nThat brick was restored from an older copy of itself. What was written since is lost, and also in \
             the images whose only good copy is there: {}.",
            price.older_copies.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(is_in_sync: bool, closed: bool, missed_blocks: Option<u64>) -> DeclarePrice {
        let in_sync = vec!["a:1".to_owned()];
        DeclarePrice { group: 0, in_sync, is_in_sync, closed, missed_blocks, older_copies: Vec::new() }
    }

    #[test]
    fn the_warning_says_what_is_at_stake() {
        let name: ImageName = "vm1".parse().unwrap();
        let text = |price| warning(&name, "b:2", &price);
        assert!(text(price(true, true, Some(0))).contains("nothing is lost"));
        assert!(text(price(true, false, Some(0))).contains("not flushed"));
        assert!(text(price(false, false, Some(3))).contains("up to 3 blocks (12.00 KiB)"));
        assert!(text(price(false, true, None)).contains("nobody who answers knows"));
        let older = DeclarePrice { older_copies: vec!["vm2".to_owned()], ..price(true, true, Some(0)) };
        assert!(text(older).contains("vm2"));
    }
}
