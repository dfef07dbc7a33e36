//! The folder of object definitions to a [`Model`](crate::lwm2m::model::Model).
