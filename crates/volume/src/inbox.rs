//! A core's inbox: what other cores ask of the pages that it owns.

use std::rc::Rc;

use sds_block::{BlockError, ErrorKind};
use sds_io::sync::Receiver;
use sds_io::{Clock, Io};

use crate::core::PoolCore;
use crate::request::{Part, PartAnswer};
use crate::shared::Message;

/// How often open requests are looked for while the pool is being closed.
const DRAIN_POLL_MS: u64 = 1;
/// How often at the most: a request that takes longer is left alone.
const DRAIN_POLLS_MAX: u64 = 30_000;

impl<E: Io + Clock> PoolCore<E> {
    /// The task that answers messages, until [`Message::Stop`].
    pub(crate) async fn inbox_task(self: Rc<Self>, mut inbox: Receiver<Message>) {
        while let Some(message) = inbox.next().await {
            let core = Rc::clone(&self);
            match message {
                Message::Execute(part, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.run_for_other(&part).await) });
                }
                Message::Collect(up_to, pages_max, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.collect(up_to, pages_max).await) });
                }
                Message::Look(page, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.look(page).await) });
                }
                Message::Saved(pages, stored) => self.saved(&pages, stored),
                Message::SweepPage(page, layer, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.sweep_page(page, layer).await) });
                }
                Message::RewriteOwners(page, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.rewrite_owners(page).await) });
                }
                Message::ScrubPage(page, answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.scrub_page(page).await) });
                }
                Message::Hold(answer) => {
                    self.hold(true);
                    answer.send(());
                }
                Message::Release(answer) => {
                    self.switch_layers();
                    self.hold(false);
                    answer.send(());
                }
                Message::Settle(layers, answer) => {
                    self.env.spawner.spawn(async move {
                        for layer in layers {
                            core.settle(layer).await;
                        }
                        answer.send(());
                    });
                }
                Message::VolumeChanged(uuid, answer) => {
                    self.volume_changed(uuid);
                    answer.send(());
                }
                Message::ReleaseRuns(answer) => {
                    self.release_runs();
                    answer.send(());
                }
                Message::Drain(answer) => {
                    self.env.spawner.spawn(async move { answer.send(core.drain().await) });
                }
                Message::Stop => {
                    self.reclaim.notify();
                    return;
                }
            }
        }
    }

    async fn run_for_other(self: &Rc<Self>, part: &Part) -> Result<PartAnswer, BlockError> {
        match self.volume(part.volume) {
            Some(volume) => self.run(&volume, part).await,
            None => Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted")),
        }
    }

    /// Ends when no request is open here; how many would not end in time.
    async fn drain(&self) -> usize {
        for _ in 0..DRAIN_POLLS_MAX {
            if self.open_requests.get() == 0 {
                return 0;
            }
            self.env.io.sleep(std::time::Duration::from_millis(DRAIN_POLL_MS)).await;
        }
        self.open_requests.get()
    }
}
