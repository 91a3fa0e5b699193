//! What conversions share: memory, processors and connections.

use std::sync::Arc;

use crate::digest::DigestTree;
use crate::engine::TransferOptions;
use crate::error::Result;
use crate::layout::Order;
use crate::local::CpuPool;
use crate::memory::Budget;

/// What the parts of a run share: parameters that an embedder decides.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Resources {
    /// The bound on bytes in flight; share one between conversions to bound them together.
    pub budget: Option<Budget>,
    /// The CPU workers; share one between conversions.
    pub pool: Option<Arc<CpuPool>>,
    /// Most requests in flight; by default as many as the source finds worthwhile.
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
