"""Writes rope.json: the frequencies that transformers computes, as bit patterns.

    python rope.py > rope.json
"""

import json
import struct

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
def default(config, seq_len=None):
    base=config.rope_parameters["rope_theta"]; dim=config.head_dim
    return 1.0/(base**(torch.arange(0,dim,2,dtype=torch.int64).to(torch.float)/dim)),1.0
cases=[
 ("none",10000.0,64,2048,{"rope_type":"default"},None),
 ("none",1000000.0,128,32768,{"rope_type":"default"},None),
 ("linear",10000.0,16,8192,{"rope_type":"linear","factor":4.0},None),
 ("dynamic_within",10000.0,64,2048,{"rope_type":"dynamic","factor":4.0},1000),
 ("dynamic_beyond",10000.0,64,2048,{"rope_type":"dynamic","factor":4.0},8192),
 ("yarn_gptoss",150000.0,64,131072,{"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":False,"original_max_position_embeddings":4096},None),
 ("yarn_qwen",1000000.0,128,131072,{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768},None),
 ("yarn_mscale",10000.0,32,16384,{"rope_type":"yarn","factor":40.0,"mscale":1.0,"mscale_all_dim":0.707,"original_max_position_embeddings":4096},None),
 ("llama3",500000.0,128,131072,{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},None),
 ("llama3_small",500000.0,64,131072,{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},None),
 ("longrope_short",10000.0,16,131072,{"rope_type":"longrope","short_factor":[1.0,1.05,1.1,1.2,1.3,1.5,1.75,2.0],"long_factor":[1.1,1.5,2.5,5.0,10.0,20.0,40.0,64.0],"original_max_position_embeddings":4096},4096),
 ("longrope_long",10000.0,16,131072,{"rope_type":"longrope","short_factor":[1.0,1.05,1.1,1.2,1.3,1.5,1.75,2.0],"long_factor":[1.1,1.5,2.5,5.0,10.0,20.0,40.0,64.0],"original_max_position_embeddings":4096},8192),
]
out=[]
for name,theta,hd,ctx,rp,seq in cases:
    c=LlamaConfig(hidden_size=hd*2,num_attention_heads=2,head_dim=hd,max_position_embeddings=ctx,rope_parameters={**rp,"rope_theta":theta})
    fn=default if rp["rope_type"]=="default" else ROPE_INIT_FUNCTIONS[rp["rope_type"]]
    inv,af=fn(c,seq_len=seq) if rp["rope_type"]!="default" else fn(c)
    bits=inv.to(torch.float32).contiguous().view(torch.int32).tolist()
    afb=struct.unpack('<I',struct.pack('<f',af))[0]
    out.append({"name":name,"config":{"model_type":"llama","hidden_size":hd*2,"num_attention_heads":2,"head_dim":hd,"max_position_embeddings":ctx,"rope_parameters":{**rp,"rope_theta":theta}},"served":seq or ctx,"attention_factor":afb,"inv_freq":bits})
print(json.dumps({"transformers":transformers.__version__,"cases":out},separators=(",",":")))
