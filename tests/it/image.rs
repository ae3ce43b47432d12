//! The image: what it is made of, and how a container of it lives.

use crate::support::client;
use crate::support::contained::{Contained, Options};
use crate::support::image::image;
use crate::support::netns;

#[test]
fn the_image_starts_without_any_configuration_on_a_read_only_root() {
    let image = image();
    if !netns::alone("image::the_image_starts_without_any_configuration_on_a_read_only_root", &[]) {
        return;
    }
    let stock =
        Options { read_only: true, memory: Some(256 << 20), processors: Some(0.5), ..Options::default() };
    let container = Contained::start(image, &stock);
    assert_eq!(client::get(container.data, "/").status, 200);
}
