//! A namespace whose receivers are observers: they look on, and do what receivers do.

use ipc_shm::{
    BatchReceiver, Broadcast, BroadcastObserver, Capabilities, Channel, ChannelError, ChannelInfo,
    ChannelName, Latest, LatestObserver, ShmConfig, Transport,
};

/// A kind that can be observed.
pub(crate) trait Observable: Transport<Config = ShmConfig> + Clone {
    type Observer: BatchReceiver + 'static;

    fn look_on(&self, name: &ChannelName) -> Result<Self::Observer, ChannelError>;
}

impl Observable for Broadcast {
    type Observer = BroadcastObserver;

    fn look_on(&self, name: &ChannelName) -> Result<BroadcastObserver, ChannelError> {
        self.observe(name)
    }
}

impl Observable for Latest {
    type Observer = LatestObserver;

    fn look_on(&self, name: &ChannelName) -> Result<LatestObserver, ChannelError> {
        self.observe(name)
    }
}

pub(crate) struct Observed<T>(pub(crate) T);

pub(crate) struct ObservedChannel<T: Observable> {
    namespace: T,
    name: ChannelName,
    channel: T::Channel,
}

impl<T: Observable> Observed<T> {
    fn of(&self, name: &ChannelName, channel: T::Channel) -> ObservedChannel<T> {
        ObservedChannel { namespace: self.0.clone(), name: name.clone(), channel }
    }
}

impl<T: Observable> Transport for Observed<T> {
    type Config = ShmConfig;
    type Channel = ObservedChannel<T>;

    const SCHEME: &'static str = T::SCHEME;
    const CAPABILITIES: Capabilities = T::CAPABILITIES;

    fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<Self::Channel, ChannelError> {
        Ok(self.of(name, self.0.create(name, config)?))
    }

    fn open(&self, name: &ChannelName) -> Result<Self::Channel, ChannelError> {
        Ok(self.of(name, self.0.open(name)?))
    }

    fn open_or_create(&self, name: &ChannelName, config: &ShmConfig) -> Result<Self::Channel, ChannelError> {
        Ok(self.of(name, self.0.open_or_create(name, config)?))
    }

    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError> {
        self.0.remove(name)
    }

    fn list(&self) -> Result<Vec<ChannelName>, ChannelError> {
        self.0.list()
    }

    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError> {
        self.0.stat(name)
    }
}

impl<T: Observable> Channel for ObservedChannel<T> {
    type Sender = <T::Channel as Channel>::Sender;
    type Receiver = T::Observer;

    fn sender(&self) -> Result<Self::Sender, ChannelError> {
        self.channel.sender()
    }

    fn receiver(&self) -> Result<T::Observer, ChannelError> {
        self.namespace.look_on(&self.name)
    }
}
