//! Resources that conversions can share: memory, processors and connections.

use std::sync::Arc;

use crate::digest::DigestTree;
use crate::engine::TransferOptions;
use crate::error::Result;
use crate::layout::Order;
use crate::local::CpuPool;
use crate::memory::Budget;

/// Resources of a run. An embedder decides which of them to share.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Resources {
    /// The bound on bytes in flight. Share one between conversions to bound them together.
    pub budget: Option<Budget>,
    /// The CPU workers. Share one pool between conversions.
    pub pool: Option<Arc<CpuPool>>,
    /// The most requests in flight. Default: as many as the source recommends.
    pub connections: Option<usize>,
}

setters!(Resources { budget: Option<Budget>, pool: Option<Arc<CpuPool>>, connections: Option<usize> });

impl Resources {
    pub(crate) fn transfer(&self, order: Order, hash: bool) -> Result<TransferOptions> {
        let pool = match &self.pool {
            Some(pool) => Arc::clone(pool),
            None => Arc::new(CpuPool::new(0)?),
        };
        Ok(TransferOptions {
            order,
            zero_leaf: hash.then(|| DigestTree::new().zero_block()),
            passthrough: None,
            done: Arc::default(),
            connections: self.connections,
            budget: self.budget.clone().unwrap_or_else(|| Budget::new(Budget::DEFAULT)),
            reserved: 0,
            pool,
        })
    }
}
