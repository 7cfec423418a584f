//! `nbd`: an image as an NBD export, until a signal or until the image is taken over.

use std::rc::Rc;
use std::time::Duration;

use brick_client::{Image, OpenOptions, Volume};
use brick_nbd::{ExportInfo, Server};
use tokio::sync::oneshot;

use crate::args::NbdArguments;
use crate::device::ImageDevice;
use crate::error::Error;
use crate::output::bytes;
use crate::signals;

pub async fn serve(volume: &Volume, arguments: NbdArguments) -> Result<(), Error> {
    let name = arguments.name.as_str().to_owned();
    // Listen before the image is opened: a port in use must not cost anybody the image.
    let (server, place) = bind(&arguments)?;
    let options = OpenOptions {
        read_only: arguments.read_only,
        takeover: arguments.takeover,
        wait: Duration::from_secs(arguments.wait),
    };
    let mut stop_requested = Box::pin(signals::stop_requested());
    let image = monoio::select! {
        image = volume.open_image(&arguments.name, options) => image?,
        // Nothing is promised to anybody yet; a lease that was granted in this moment runs out.
        () = &mut stop_requested => return Err(Error::Interrupted { name }),
    };
    let (ended, end_reason) = watch_end(&image);
    let stop = async {
        monoio::select! {
            () = stop_requested => {}
            _ = ended => {}
        }
    };
    println!("brickctl: serving image {name} ({}) on {place}", bytes(image.size_bytes()));
    let export = ExportInfo { name: name.clone(), description: format!("brick image {}", image.uuid()) };
    let served = server.serve(Rc::new(ImageDevice(image.clone())), export, stop).await;
    if let Some(source) = end_reason.take() {
        return Err(Error::Ended { name, source });
    }
    image.close().await.map_err(|source| Error::Image { name, source })?;
    served.map_err(Error::Serve)
}

fn bind(arguments: &NbdArguments) -> Result<(Server, String), Error> {
    match (&arguments.socket, &arguments.listen) {
        (Some(path), _) => Ok((Server::bind_unix(path)?, format!("nbd+unix:///?socket={}", path.display()))),
        (None, listen) => {
            let server = Server::bind_tcp(listen.as_deref().unwrap_or_default())?;
            let address = server.tcp_address().map(|address| address.to_string()).unwrap_or_default();
            Ok((server, format!("nbd://{address}")))
        }
    }
}

/// Tells when the image can't be served any more, and then why.
fn watch_end(
    image: &Image,
) -> (oneshot::Receiver<()>, Rc<std::cell::Cell<Option<brick_client::replica::GroupError>>>) {
    let (sender, receiver) = oneshot::channel();
    let reason = Rc::new(std::cell::Cell::new(None));
    let (image, store) = (image.clone(), reason.clone());
    monoio::spawn(async move {
        store.set(Some(image.ended().await));
        let _server_is_gone = sender.send(());
    });
    (receiver, reason)
}
