//! `shm:rpc`: a call and its response are a round trip over one service.
//!
//! The near side calls, the far one serves: a message there is a request, the one back its
//! response. Requests are read in place and answered from memory of the server's own;
//! responses are read in place.

use super::{
    link::Link,
    site::{DIRECTIONS, Site},
};
use crate::{
    links::backends::shm_waiting,
    spec::{LaneSpec, Payload},
    trouble::Fallible,
};
use ipc_core::{ChannelName, Client, Request, Server, Wait};
use ipc_shm::{Rpc, RpcClient, RpcServer, RpcTicket, ShmConfig};

/// The calling end.
pub(crate) struct Caller {
    client: RpcClient,
    /// The call that is under way.
    ticket: Option<RpcTicket>,
    payload: Payload,
    own: Vec<u8>,
}

impl Caller {
    /// Makes the service, and calls it.
    pub(crate) fn attach(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let config = ShmConfig::new().transient().max_message_len(spec.message_len_bytes.max(1) as u64);
        let mut client = Rpc::at(&site.directory).create(&name(spec, site)?, &config)?.client()?;
        client.set_waiting(shm_waiting(spec.waiting));
        Ok(Self { client, ticket: None, payload: spec.payload(), own: vec![0; spec.message_len_bytes] })
    }
}

impl Link for Caller {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.own, number);
        self.ticket = Some(self.client.submit(&self.own, Wait::Forever)?);
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        let ticket = self.ticket.take().ok_or("there is no response without a call")?;
        self.payload.check(&self.client.collect(ticket, Wait::Forever)?, number)
    }
}

/// The answering end.
pub(crate) struct Answerer {
    server: RpcServer,
    payload: Payload,
    own: Vec<u8>,
}

impl Answerer {
    /// Serves what a caller has made.
    pub(crate) fn attach(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let mut server = Rpc::at(&site.directory).open(&name(spec, site)?)?.server()?;
        server.set_waiting(shm_waiting(spec.waiting));
        Ok(Self { server, payload: spec.payload(), own: vec![0; spec.message_len_bytes] })
    }
}

impl Link for Answerer {
    /// Reads the request that was received and answers it.
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let request = self.server.held();
        self.payload.check(&request, number)?;
        self.payload.write(&mut self.own, number);
        match request.respond(&self.own)? {
            true => Ok(()),
            false => Err(format!("the caller gave up call {number}").into()),
        }
    }

    /// Waits for a request, and leaves it there: who lets go of one declines it.
    #[inline]
    fn receive(&mut self, _number: u64) -> Fallible<()> {
        Ok(self.server.advance(Wait::Forever)?)
    }
}

fn name(spec: &LaneSpec, site: &Site) -> Fallible<ChannelName> {
    Ok(ChannelName::new(&site.channel(spec, DIRECTIONS[0]))?)
}
