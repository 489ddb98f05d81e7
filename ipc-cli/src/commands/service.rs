//! What `call` and `serve` have in common: a channel of kind rpc, which only shared memory
//! has.

use crate::{
    address::{Address, Scheme},
    args::{CreateIfMissing, Settings, Trust},
    backend,
    exit::{Exit, Failure},
};
use ipc_shm::{Rpc, RpcChannel, Shm};

/// Opens the service's channel, or makes it if that is wanted.
pub(super) fn open(
    address: &Address,
    trust: &Trust,
    create: &CreateIfMissing,
) -> Result<RpcChannel, Failure> {
    if address.scheme != Scheme::Shm {
        let text = "kernel queues have no calls: use a shm channel of kind rpc";
        return Err(Failure::new(Exit::Usage, address, text));
    }
    let services = Rpc::new().trust(trust.uids.iter().copied());
    let opened = if create.create {
        let config = backend::config::<Shm>(address, &create.settings)?;
        services.open_or_create(&address.name, &config.transient())
    } else if create.settings == Settings::default() {
        services.open(&address.name)
    } else {
        return Err(Failure::new(Exit::Usage, address, backend::SETTINGS_WITHOUT_CREATE));
    };
    opened.map_err(|error| Failure::service(address, &error))
}
