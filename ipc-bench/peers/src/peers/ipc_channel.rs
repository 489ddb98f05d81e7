//! ipc-channel: a channel of bytes each way, without serialisation: the faster of its kinds.
//!
//! The near process offers a one-shot server, the far one brings it the ends that belong
//! there, as the crate's documentation has it.

use crate::link::{Fallible, Link, Payload, Spec};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use std::fs;

type Ends = (IpcBytesSender, IpcBytesReceiver);

pub(crate) struct Bytes {
    /// What the far process is still expected at.
    server: Option<IpcOneShotServer<Ends>>,
    ends: Option<Ends>,
    payload: Payload,
    outgoing: Vec<u8>,
}

impl Bytes {
    pub(crate) fn attach(spec: &Spec) -> Fallible<Self> {
        let meeting_point = spec.directory.join("ipc-channel");
        let (server, ends) = if spec.is_near {
            let (server, name) = IpcOneShotServer::new()?;
            fs::write(meeting_point, name)?;
            (Some(server), None)
        } else {
            let (to_far, from_near) = ipc::bytes_channel()?;
            let (to_near, from_far) = ipc::bytes_channel()?;
            IpcSender::<Ends>::connect(fs::read_to_string(meeting_point)?)?.send((to_far, from_far))?;
            (None, Some((to_near, from_near)))
        };
        Ok(Self { server, ends, payload: spec.payload, outgoing: vec![0; spec.payload.len_bytes] })
    }

    #[inline]
    fn ends(&mut self) -> Fallible<&Ends> {
        if let Some(server) = self.server.take() {
            self.ends = Some(server.accept()?.1);
        }
        Ok(self.ends.as_ref().ok_or("the other process isn't there")?)
    }
}

impl Link for Bytes {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        self.ends()?;
        let (sender, _) = self.ends.as_ref().ok_or("the other process isn't there")?;
        Ok(sender.send(&self.outgoing)?)
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        let payload = self.payload;
        payload.check(&self.ends()?.1.recv()?, number)
    }
}
