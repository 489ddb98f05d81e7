//! Services in shared memory do what every service must do.

#[path = "common/directory.rs"]
mod directory;

use directory::Directory;
use ipc_core::conformance::ServiceFixture;
use ipc_shm::{ChannelError, ChannelName, Rpc, RpcChannel, RpcClient, RpcServer, ShmConfig};

struct Services(Directory);

impl Services {
    fn namespace(&self) -> Rpc {
        Rpc::at(self.0.path())
    }
}

impl ServiceFixture for Services {
    type Service = RpcChannel;
    type Client = RpcClient;
    type Server = RpcServer;

    fn create(
        &self,
        name: &ChannelName,
        depth: usize,
        max_message_len: usize,
    ) -> Result<RpcChannel, ChannelError> {
        let config = ShmConfig::new().depth(depth as u64).max_message_len(max_message_len as u64);
        self.namespace().create(name, &config)
    }

    fn open(&self, name: &ChannelName) -> Result<RpcChannel, ChannelError> {
        self.namespace().open(name)
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.namespace().remove(name)
    }

    fn client(&self, service: &RpcChannel) -> Result<RpcClient, ChannelError> {
        service.client()
    }

    fn server(&self, service: &RpcChannel) -> Result<RpcServer, ChannelError> {
        service.server()
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.0.environment()
    }
}

ipc_core::service_conformance_main!(Services(Directory::new()));
